"""What is measured and kept: the records of an audit.

A change here is another `schema.SCHEMA`, unless it is a new field whose default says that nothing was recorded.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Passes:
    """What an attack cost: passes forward and backward."""

    forward: int
    backward: int


@dataclass(frozen=True, kw_only=True)
class NoiseSize:
    """Size of noise as it is stored.

    Attributes:
        norm: name of the norm that bounds it.
        size: in this norm, in σ.
        l2: its L2 norm, in σ.
        linf: its largest element, in σ.
        rms: its root mean square, in σ.
        raw_rms: the same in raw intensity units; None where the normalisation hides them.
    """

    norm: str
    size: float
    l2: float
    linf: float
    rms: float
    raw_rms: float | None


@dataclass(frozen=True, kw_only=True)
class Trace:
    """What a verdict needs to know of an attack's course.

    Attributes:
        steps: gradients looked at.
        zero: those that were exactly 0.
        not_finite: those that held NaN or infinity.
        keeps_form: the loss is the same function at every step.
        loss: at each step, where it is finite.
        quality: lowest quality so far, at each step or query; () where it was not kept.
    """

    steps: int
    zero: int
    not_finite: int
    keeps_form: bool
    loss: tuple[float, ...]
    quality: tuple[float, ...]


Bin = tuple[int, float, int]
"""Voxels whose confidence lies in a bin: their number, the sum of their confidence, and how many of them are right."""


@dataclass(frozen=True, kw_only=True)
class Confidence:
    """How sure a model is of a prediction; see `segmentation.confidence`.

    Attributes:
        mean: of the largest probability, over the voxels predicted as foreground and a rim around them; None where
            nothing is predicted.
        entropy: the mean entropy there, in nats.
        bins: of confidence from 0 to 1, for the voxels predicted or labelled as foreground and a rim around them.
    """

    mean: float | None
    entropy: float | None
    bins: tuple[Bin, ...]


@dataclass(frozen=True, kw_only=True)
class Score:
    """A segmentation against the ground truth; ignored voxels and the background count nowhere.

    Attributes:
        dice: mean over the classes that the label holds.
        dice_per_class: by name; 0 for one that is only predicted, None for one that is neither there nor predicted.
        overlap: voxels (true positive, false positive, false negative) by name.
        hd95_mm: mean over the classes that the label holds of the 95th percentile of the Hausdorff distance, in mm;
            None as soon as one of them is not predicted at all, as a mean over the others would reward the failure.
        hd95_mm_per_class: by name; None where label or prediction lacks the class.
        nsd: mean over the classes that the label holds of the normalised surface Dice: the share of both surfaces that
            lies within the audit's tolerance of the other one; 0 for a class that is not predicted at all.
        nsd_per_class: by name; None where label and prediction lack the class.
        volume_error: mean over the classes that the label holds of how much too large or too small the predicted volume
            is, as a share of the true one.
        volume_error_per_class: the same by name, with its sign: -1 for a missed one; None where the label lacks it.
        missed: names of the classes that the label holds and the prediction lacks.
        confidence: of the prediction; None: an earlier release did not record it.
    """

    dice: float
    dice_per_class: dict[str, float | None]
    overlap: dict[str, tuple[int, int, int]]
    hd95_mm: float | None
    hd95_mm_per_class: dict[str, float | None]
    nsd: float | None
    nsd_per_class: dict[str, float | None]
    volume_error: float | None
    volume_error_per_class: dict[str, float | None]
    missed: tuple[str, ...]
    confidence: Confidence | None = None


@dataclass(frozen=True, kw_only=True)
class ComponentResult(Score):
    """Score under a single attack, with its noise, course, cost and seconds."""

    noise: NoiseSize
    trace: Trace
    passes: Passes
    seconds: float


@dataclass(frozen=True, kw_only=True)
class Result(Score):
    """Score of a case under the worst attack of a preset, or without noise.

    Attributes:
        model: name of the model.
        case: name of the case.
        attack: name of the preset; "clean" without noise.
        eps: noise level; 0 without noise.
        units: the level in all units, see `segmentation.budgets.NoiseUnits.describe`.
        clean_dice: without noise.
        clean_dice_per_class: the same by class.
        random_dice: mean Dice under white noise of this level; None without noise.
        stored_dice: Dice after the noisy image was a file; None without noise or where it cannot be written.
        noise: size of the worst noise; None without noise.
        worst_component: the attack of the preset that found it; None without noise.
        components: Dice under each attack of the preset that was run.
        passes: of all of them.
        seconds: of all of them.
    """

    model: str
    case: str
    attack: str
    eps: float
    units: dict[str, float | None]
    clean_dice: float
    clean_dice_per_class: dict[str, float | None]
    random_dice: float | None
    stored_dice: float | None
    noise: NoiseSize | None
    worst_component: str | None
    components: dict[str, float]
    passes: Passes
    seconds: float


@dataclass(frozen=True, kw_only=True)
class WhiteNoise:
    """Dice under white noise: by kind, and its mean over the kinds."""

    dice: float
    kinds: dict[str, float]


@dataclass(frozen=True, kw_only=True)
class Narrowed:
    """The smallest noise found between two levels that takes Dice below the threshold: ε, in all units, and Dice."""

    eps: float
    units: dict[str, float | None]
    dice: float


@dataclass(frozen=True, kw_only=True)
class Margin:
    """The robustness margin of a case.

    Attributes:
        model: name of the model.
        case: name of the case.
        eps: the margin; 0 if Dice is below the threshold without noise; None if the case stands the largest level.
        largest_tried: the largest level.
        units: the margin in all units; None if there is none.
        dice: at the margin, or at the largest level.
        threshold: Dice below which a prediction counts as failed.
    """

    model: str
    case: str
    eps: float | None
    largest_tried: float
    units: dict[str, float | None] | None
    dice: float
    threshold: float


@dataclass(frozen=True, kw_only=True)
class Certificate:
    """What no noise up to a radius can do to a smoothed model on a case; see `segmentation.smoothing`.

    Attributes:
        model: name of the model.
        case: name of the case.
        sigma: of the smoothing noise, per element, in σ of the normalised image.
        radius: L2 norm, in σ of the normalised image, of the noise that is certified against.
        units: the radius in all units.
        dice: the smoothed model's at least: voxels on which it abstains count as wrong.
        dice_at_most: the same with these voxels counted as right.
        dice_per_class: both by name; None where the label lacks the class.
        smoothed_dice: of the majority's label map, without any further noise.
        abstained: share of the voxels that are not certified.
        seconds: it took.
    """

    model: str
    case: str
    sigma: float
    radius: float
    units: dict[str, float | None]
    dice: float
    dice_at_most: float
    dice_per_class: dict[str, tuple[float, float] | None]
    smoothed_dice: float
    abstained: float
    seconds: float


UNTOUCHED = "untouched"  # the scan, written and read again


@dataclass(frozen=True, kw_only=True)
class Shifted(Score):
    """Score of a case under a realistic disturbance of its raw images; see `nnunet_ima.shift`.

    Attributes:
        model: name of the model.
        case: name of the case.
        disturbance: its name; "untouched" for the scan that was only written and read again.
        severity: 1 to 5; 0 for the untouched scan.
        level: the severity as a physical quantity.
        unit: of the level.
        parameters: that were drawn, as JSON.
        changed: mean absolute change of the intensities, as a share of their standard deviation; 1 on another grid.
        clean_dice: without any disturbance.
    """

    model: str
    case: str
    disturbance: str
    severity: int
    level: float
    unit: str
    parameters: str
    changed: float
    clean_dice: float


@dataclass(frozen=True, kw_only=True)
class ShiftSearch:
    """What a search for the worst change of a scan has found.

    Attributes:
        parameters: of each change by its name, in physical units; see `nnunet_ima.shift.searched`.
        dice: under it, on the network's grid, as the search has seen it.
        passes: forward and backward over the case.
        loss: at each gradient step; () of a search at random.
    """

    parameters: dict[str, tuple[float, ...]]
    dice: float
    passes: int
    loss: tuple[float, ...]


@dataclass(frozen=True, kw_only=True)
class WorstShift(Score):
    """Score of a case under the worst realistic change that was found, written and read as any other scan.

    Attributes:
        model: name of the model.
        case: name of the case.
        modality: of the scan: "MR", "CT" or "any".
        severity: of all boxes, 1 to 5.
        told: the changes in words, by their names.
        changed: mean absolute change of the intensities, as a share of their standard deviation.
        clean_dice: without any change.
        random_dice: under the worst change that chance found with as many passes, through files, too.
        climbed: what the search by gradient found.
        drawn: what chance found.
        identity: share of the voxels that are predicted otherwise where all changes have size 0.
    """

    model: str
    case: str
    modality: str
    severity: int
    told: dict[str, str]
    changed: float
    clean_dice: float
    random_dice: float
    climbed: ShiftSearch
    drawn: ShiftSearch
    identity: float


@dataclass(frozen=True, kw_only=True)
class Checked:
    """What `nnunet-ima-check` says of a scan under a disturbance; see `shift.likeness`.

    Attributes:
        model: name of the model, whose training scans are compared with.
        case: name of the case.
        disturbance: its name; "untouched" for the scan as it is.
        severity: 1 to 5; 0 for the untouched scan.
        flagged: the scan is unlike the training scans.
        feature: the most unlike one.
        distance: of this feature from the training scans' median, in spreads; None for an orientation that none has.
        threshold: distance from which on a scan is flagged.
    """

    model: str
    case: str
    disturbance: str
    severity: int
    flagged: bool
    feature: str
    distance: float | None
    threshold: float


@dataclass(frozen=True, kw_only=True)
class Compressed(Score):
    """Score of a case under the frequency attack, which no ε bounds; see `attacks.vafa`.

    Attributes:
        model: name of the model.
        case: name of the case.
        q_max: bound of the quantisation tables, in 256ths of the range of grey values.
        clean_dice: of the case as it is.
        ssim: structural similarity of the attacked image to it, as the network gets them.
        mean_change: mean absolute change of the voxels, in σ.
        max_change: the largest one, in σ.
        passes: that the attack took.
        seconds: that it took.
    """

    model: str
    case: str
    q_max: float
    clean_dice: float
    ssim: float
    mean_change: float
    max_change: float
    passes: Passes
    seconds: float


@dataclass(frozen=True, kw_only=True)
class Transferred:
    """Dice of a model's case under noise that was made for another model, the source."""

    model: str
    source: str
    case: str
    eps: float
    dice: float


@dataclass(frozen=True, kw_only=True)
class AttackedAgain:
    """Dice under an attack that only serves to judge the evidence."""

    dice: float


@dataclass(frozen=True, kw_only=True)
class Repeated:
    """Largest difference between the logits of two passes."""

    difference: float


@dataclass(frozen=True, kw_only=True)
class Probe:
    """What was found on a case, or on some, that were measured again to judge the evidence.

    The qualities are Dice, or the share of images that are right.

    Attributes:
        eps: noise level.
        quality: under the audit's attack.
        twice_the_steps: with twice its steps.
        other_scales: on other scales of the logits, the lowest.
        black_box: under attacks without gradients.
        black_box_name: those attacks in words.
        huge: under noise that nothing can stand.
        eps_huge: its level.
        full_precision: in full precision; None where that is no other.
        repeat_difference: see `Repeated`.
        cases: number of cases that this stands for.
    """

    eps: float
    quality: float
    twice_the_steps: float
    other_scales: float
    black_box: float
    black_box_name: str
    huge: float
    eps_huge: float
    full_precision: float | None
    repeat_difference: float
    cases: int = 1


@dataclass(frozen=True)
class Written:
    """Files are written."""


@dataclass(frozen=True, kw_only=True)
class Judgement:
    """A check of the evidence on a model.

    Attributes:
        model: name of the model.
        check: what should hold.
        result: "passed", "failed" or "not run".
        figure: the number behind it, in words.
        conclusive: every check on the model passed.
    """

    model: str
    check: str
    result: str
    figure: str
    conclusive: bool


@dataclass(frozen=True, kw_only=True)
class Failure:
    """A case that could not be measured."""

    model: str
    case: str
    error: str
