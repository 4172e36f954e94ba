"""Is the evidence sound? Checks that tell a robust model from a weak attack (after Carlini et al. 2019, 1902.06705).

A robust-looking number proves nothing by itself: vanishing gradients, too few steps or a faulty harness give the same.
Each check here can fail. One that does makes the audit "not conclusive", and so does one that was not run: what was not
looked at proves nothing.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from statistics import fmean

from nnunet_ima.evidence.records import Judgement, Probe, Trace

PASSED, FAILED, NOT_RUN = "passed", "failed", "not run"

# Lowest share of vanished gradients, rise of the loss in the last tenth of the steps, gain of Dice or accuracy by more
# or other attacks, and Dice or accuracy under noise that nothing can stand, at which a check fails.
VANISHED, STILL_RISING, GAIN, STANDS = 0.05, 0.10, 0.03, 0.05
# Another scale is another loss, which finds a little more or less on any model: 0.036 on one of D4's cases. Saturated
# logits cost an attack more than 0.1.
SCALE_GAIN = 0.06


@dataclass(frozen=True)
class Check:
    """Outcome of one check.

    Attributes:
        check: what should hold.
        result: "passed", "failed" or "not run".
        figure: the number behind it, in words.
    """

    check: str
    result: str
    figure: str


@dataclass(frozen=True, slots=True)
class Attempt:
    """What an attack found at a noise level.

    Attributes:
        eps: noise level.
        quality: Dice, or share of images that are right.
        noise: norm of the noise.
        bound: the largest norm allowed.
        white: quality under the worst white noise of this level; None where none was looked at.
    """

    eps: float
    quality: float
    noise: float
    bound: float
    white: float | None


@dataclass(frozen=True)
class Course:
    """How a single attack came there.

    Attributes:
        quality: in the end.
        trace: of its steps.
        stands: no other attack of its preset found a lower one on the same case at the same level. What others would
            find with more steps, twice the steps tell; a slow attack beside a strong one takes nothing away.
    """

    quality: float
    trace: Trace
    stands: bool = True


@dataclass
class Courses:
    """What judging needs of many courses, whose traces are not kept.

    Attributes:
        steps: gradients looked at.
        zero: those that were exactly 0.
        not_finite: those that held NaN or infinity.
        rises: of the loss in the last tenth of the steps, of each attack that stands and tells it.
    """

    steps: int = 0
    zero: int = 0
    not_finite: int = 0
    rises: list[float] = field(default_factory=list)

    def add(self, course: Course) -> None:
        """Look at a course."""
        trace = course.trace
        self.steps += trace.steps
        self.zero += trace.zero if trace.steps else 0
        self.not_finite += trace.not_finite if trace.steps else 0
        # an attack that has reached Dice 0 has left in the middle of its rise, and had nothing more to gain
        if course.stands and course.quality > 0 and trace.keeps_form and len(trace.loss) >= 20:
            self.rises.append(_late_rise(trace.loss))


def verdict(
    attempts: Sequence[Attempt], courses: Iterable[Course] | Courses, probes: Sequence[Probe], word: str = "Dice"
) -> list[Check]:
    """Judge the evidence on one model.

    Args:
        attempts: each attack on each case at each level.
        courses: of all single attacks of which these were made, or what was seen of them.
        probes: what was measured again.
        word: name of what is measured.
    """
    if not isinstance(courses, Courses):
        seen = Courses()
        for course in courses:
            seen.add(course)
        courses = seen
    precise = [probe for probe in probes if probe.full_precision is not None]
    return [
        _gradients(courses),
        _converged(courses),
        _attacked_again(
            f"twice the steps find no much lower {word}",
            [probe.twice_the_steps for probe in probes],
            GAIN,
            probes,
            word,
        ),
        _huge_noise(probes, word),
        _random_noise(attempts),
        _black_box(probes, word),
        _attacked_again(
            f"no other scale of the logits finds much lower {word}",
            [probe.other_scales for probe in probes],
            SCALE_GAIN,
            probes,
            word,
        ),
        _ranks(attempts),
        _deterministic(probes),
        _inside_the_ball(attempts),
        *([_precision(precise, word)] if precise else []),  # on a CPU there is nothing to compare
    ]


def is_conclusive(checks: Iterable[Check]) -> bool:
    """Whether every check passed."""
    return all(check.result == PASSED for check in checks)


def judgements(model: str, checks: Sequence[Check]) -> list[Judgement]:
    """Return the checks of a model as findings and summary hold them."""
    conclusive = is_conclusive(checks)
    return [
        Judgement(model=model, check=it.check, result=it.result, figure=it.figure, conclusive=conclusive)
        for it in checks
    ]


def judge(check: str, passed: bool | None, figure: str) -> Check:
    """Return a check's outcome; None: it was not run."""
    return Check(check, NOT_RUN if passed is None else PASSED if passed else FAILED, figure)


def _gradients(courses: Courses) -> Check:
    steps, zero, broken = courses.steps, courses.zero, courses.not_finite
    passed = None if steps == 0 else broken == 0 and zero <= VANISHED * steps
    return judge(
        "gradients are finite and do not vanish", passed, f"{zero} zero and {broken} not finite of {steps} gradients"
    )


def _converged(courses: Courses) -> Check:
    rises = courses.rises
    name = "the loss has stopped rising at the last step"
    if not rises:
        return judge(name, None, "no attack of 20 steps or more with a loss that keeps its form was run to its end")
    figure = f"from the last but one to the last tenth it rises by {100 * fmean(rises):.1f} % of its range"
    return judge(name, fmean(rises) < STILL_RISING, figure)


def _cases(probes: Sequence[Probe]) -> int:
    """Number of cases that the probes stand for."""
    return sum(probe.cases for probe in probes)


def _late_rise(losses: Sequence[float]) -> float:
    """Rise of the mean loss from the last but one to the last tenth of the steps, as a share of the loss's range."""
    tenth, span = len(losses) // 10, max(losses) - min(losses)
    return max(0.0, fmean(losses[-tenth:]) - fmean(losses[-2 * tenth : -tenth])) / span if span else 0.0


def _attacked_again(name: str, found: Sequence[float], allowed: float, probes: Sequence[Probe], word: str) -> Check:
    """Judge what another attack finds beyond the first one, in the mean of the probes."""
    gains = [probe.quality - quality for probe, quality in zip(probes, found, strict=True)]
    if not gains:
        return judge(name, None, "no cases probed")
    figure = f"{word} lower by {max(fmean(gains), 0.0):.3f} in the mean of {_cases(probes)}"
    return judge(name, fmean(gains) <= allowed, figure)


def _huge_noise(probes: Sequence[Probe], word: str) -> Check:
    found = [probe.huge for probe in probes]
    figure = f"{word} {fmean(found):.3f} at ε = {probes[0].eps_huge:g}" if found else "no cases probed"
    return judge("very large noise breaks the model", fmean(found) <= STANDS if found else None, figure)


def _random_noise(attempts: Sequence[Attempt]) -> Check:
    compared = [(attempt.white, attempt.quality) for attempt in attempts if attempt.white is not None]
    beaten = sum(white < quality - 1e-3 for white, quality in compared)
    figure = f"random noise did better in {beaten} of {len(compared)} results"
    return judge("no random noise beats an attack", beaten == 0 if compared else None, figure)


def _black_box(probes: Sequence[Probe], word: str) -> Check:
    name, gains = "no black-box attack beats the gradient", [probe.quality - probe.black_box for probe in probes]
    if not gains:
        return judge(name, None, "no cases probed")
    found, before = fmean(probe.black_box for probe in probes), fmean(probe.quality for probe in probes)
    figure = f"{probes[0].black_box_name}: {word} {found:.3f} against {before:.3f}, mean of {_cases(probes)}"
    return judge(name, max(gains) <= GAIN, figure)


def _ranks(attempts: Sequence[Attempt]) -> Check:
    levels = {attempt.eps for attempt in attempts}
    dead = {eps for eps in levels if all(it.quality < 0.01 for it in attempts if it.eps == eps)}
    figure = f"all cases are at 0 for {len(dead)} of {len(levels)} noise levels"
    return judge("the noise levels leave something to rank", dead != levels if levels else None, figure)


def _deterministic(probes: Sequence[Probe]) -> Check:
    differences = [probe.repeat_difference for probe in probes]
    figure = f"largest difference of logits {max(differences):.2g}" if differences else "no cases probed"
    return judge("the model is deterministic", max(differences) == 0 if differences else None, figure)


def _inside_the_ball(attempts: Sequence[Attempt]) -> Check:
    excess = [attempt.noise / attempt.bound for attempt in attempts]
    figure = f"largest noise {max(excess):.6f} of its bound" if excess else "no noise"
    return judge("the noise stays inside its bound", max(excess) <= 1 + 1e-5 if excess else None, figure)


def _precision(probes: Sequence[Probe], word: str) -> Check:
    gains = [probe.quality - probe.full_precision for probe in probes if probe.full_precision is not None]
    figure = f"in full precision {word} is lower by {max(fmean(gains), 0.0):.3f} in the mean of {len(gains)}"
    return judge("mixed precision does not weaken the attack", fmean(gains) <= GAIN, figure)
