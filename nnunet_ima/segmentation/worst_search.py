"""The worst change of a scan: climbed through nnU-Net's whole inference, and drawn at random with as many passes.

The box of a chain's parameters is the cube from -1 to 1, a ball of radius 1 in L∞: APGD, an attack on noise, searches
changes, too. A geometry moves the label as it moves the image, and the loss sees both move.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from nnunet_ima.attacks.apgd import apgd
from nnunet_ima.attacks.problem import Attacked, Problem
from nnunet_ima.evidence.traces import summarised
from nnunet_ima.inference.pipeline import Pipeline
from nnunet_ima.inference.preprocessing import Preprocessing
from nnunet_ima.perturbation.norms import NORMS
from nnunet_ima.segmentation.target import Watch
from nnunet_ima.shift.scan import Scan
from nnunet_ima.shift.searched import Chain, label_of, label_shares
from nnunet_ima.tasks.dice import dice
from nnunet_ima.tasks.voxelwise import mean_dice_present

PASSES_PER_STEP = 2  # of a gradient step: forward and backward
DRAWN = 0.25  # of the passes, for random looks among which a search chooses where to begin
STEPS_PER_START = 40  # a shorter search climbs once: an ascent of few steps stops half-way


@dataclass(frozen=True)
class Found:
    """What a search has found.

    Attributes:
        unit: the worst point (P,) of the cube.
        dice: at it, of the fused logits on the network's grid.
        passes: spent, a gradient step counting as `PASSES_PER_STEP`.
        loss: at each gradient step; () without any.
    """

    unit: Tensor
    dice: float
    passes: int
    loss: tuple[float, ...] = ()


@dataclass
class ChangedScan:
    """A scan under a chain of changes, as a model sees it.

    Attributes:
        pipeline: the model's inference.
        preprocessing: the model's.
        scan: the untouched scan.
        chain: the changes.
        temperature: what logits are divided by for the loss.
    """

    pipeline: Pipeline
    preprocessing: Preprocessing
    scan: Scan
    chain: Chain
    temperature: float = 1.0
    _channels: Tensor = field(init=False)
    _shares: Tensor = field(init=False)
    _values: list[int] = field(init=False)
    _groups: Tensor = field(init=False)
    _ignored: int | None = field(init=False)

    def __post_init__(self) -> None:
        device, manager = self.pipeline.model.device, self.pipeline.model.label_manager
        self._channels = torch.from_numpy(self.scan.channels).to(device)
        self._shares, self._values = label_shares(self.scan, device)
        self._ignored = manager.ignore_label if manager.ignore_label in self._values else None
        regions = manager.foreground_regions if manager.has_regions else manager.foreground_labels
        groups = [[float(value in _several(region)) for value in self._values] for region in regions]
        self._groups = torch.tensor(groups, device=device)

    def changed(self, parameters: Tensor) -> Scan:
        """The scan under changes (P,), its label map moved along."""
        with torch.no_grad():
            channels, shares = self.chain.apply(self._channels, self._shares, parameters.to(self._channels))
        label = label_of(shares, self._values).cpu().numpy().astype(self.scan.label.dtype)
        return Scan(channels.cpu().numpy(), label, self.scan.affine, self.scan.modality)

    def seen(self, parameters: Tensor) -> tuple[Tensor, Tensor]:
        """Network input (C, *spatial) and shares of the labels (L, *spatial) under changes (P,)."""
        channels, shares = self.chain.apply(self._channels, self._shares, parameters)
        return self.preprocessing(channels, shares)

    def predicted(self, unit: Tensor) -> Tensor:
        """Fused logits and shares of the labels (1, K + L, *spatial) at a point (1, P) of the cube."""
        image, shares = self.seen(self.chain.physical(unit[0]))
        return torch.cat((self.pipeline(image[None]), shares[None]), 1)

    def loss(self, predicted: Tensor, target: Tensor, progress: float) -> Tensor:
        """One minus the mean soft Dice (1,) with the shares of the labels, over classes or regions that are there."""
        logits, shares = self._parts(predicted)
        logits, shares = logits.flatten(2) / self.temperature, shares.flatten(2)
        truth = torch.einsum("kl,blv->bkv", self._groups, shares)
        regions = self.pipeline.model.labels.regions
        found = torch.sigmoid(logits) if regions else logits.softmax(1)[:, 1:]
        if self._ignored is not None:
            counted = 1 - shares[:, [self._values.index(self._ignored)]]
            found, truth = found * counted, truth * counted
        present = self._groups.any(1)
        return 1 - dice(found, truth, smooth=1e-5)[:, present].mean(1)

    def quality(self, predicted: Tensor, target: Tensor) -> Tensor:
        """Mean hard Dice (1,) with the label map as it has moved; infinite where it holds no structure any more."""
        logits, shares = self._parts(predicted)
        label = label_of(shares[0], self._values)
        if not bool(torch.isin(label, torch.tensor(self._values, device=label.device)[self._groups.any(0)]).any()):
            return logits.new_full((1,), torch.inf)  # every structure has left the image, which is no model's fault
        labels = self.pipeline.model.labels
        if labels.regions:
            manager = self.pipeline.model.label_manager
            named = [*manager.foreground_regions, *([manager.ignore_label] if manager.has_ignore_label else [])]
            regions = [torch.isin(label, torch.tensor(_several(it), device=label.device)) for it in named]
            return mean_dice_present(logits, torch.stack(regions)[None].long(), labels)
        return mean_dice_present(logits, label[None, None], labels)

    def _parts(self, predicted: Tensor) -> tuple[Tensor, Tensor]:
        return predicted[:, : -len(self._values)], predicted[:, -len(self._values) :]


def _several(region: Any) -> list[int]:
    """Label values of a class or region."""
    return [int(value) for value in region] if isinstance(region, list | tuple) else [int(region)]


class Search:
    """Both searches of one scan.

    Attributes:
        scan: under changes.
        steps: as many gradient steps would use up all passes.
    """

    def __init__(self, scan: ChangedScan, steps: int, watch: Watch | None = None) -> None:
        self.scan, self.steps, self._watch = scan, steps, watch

    @property
    def passes(self) -> int:
        """That each search may spend."""
        return PASSES_PER_STEP * self.steps

    def at_random(self, generator: torch.Generator, passes: int | None = None) -> list[Found]:
        """Random points, worst first: one within the cube, one at its corners, and so on."""
        problem = self._problem("random change")
        found, passes = [], self.passes if passes is None else passes
        for number in range(passes):
            unit = 2 * torch.rand(problem.x.shape, generator=generator) - 1
            unit = (unit.sign() if number % 2 else unit).to(problem.x)
            with torch.no_grad():
                quality = problem.quality(problem.model(unit), problem.y)
            found.append(Found(unit[0], float(quality), passes))
        return sorted(found, key=lambda entry: entry.dice)

    def climbed(self, generator: torch.Generator) -> Found:
        """The worst point of gradient ascents that begin at the worst of a few random ones."""
        drawn = self.at_random(generator, max(1, int(DRAWN * self.passes)))
        starts, best, spent = max(1, self.steps // STEPS_PER_START), drawn[0], len(drawn)
        problem, losses = self._problem("worst change"), list[float]()
        for number in range(starts):
            # beside its steps, an ascent looks at the middle of the box and at where it ends
            steps = (self.passes - spent - 2 * (starts - number)) // (starts - number) // PASSES_PER_STEP
            found = apgd(
                problem, self.scan.loss, steps=max(1, steps), generator=generator, start=drawn[number].unit[None]
            )
            spent += _passes(found)
            losses += summarised(found.trace, keeps_form=True).loss
            if float(found.quality) < best.dice:
                best = Found(found.x[0], float(found.quality), 0)
        return Found(best.unit, best.dice, spent, tuple(losses))

    def _problem(self, title: str) -> Problem:
        worst = float("inf")

        def quality(predicted: Tensor, target: Tensor) -> Tensor:
            nonlocal worst
            found = self.scan.quality(predicted, target)
            worst = min(worst, float(found))
            if self._watch is not None:
                self._watch(title, worst)
            return found

        x = torch.zeros((1, len(self.scan.chain.low)), device=self.scan.pipeline.model.device)
        ones, norm = x.new_ones(1), NORMS["Linf"]
        return Problem(self.scan.predicted, x, x, ones, norm, quality)


def _passes(found: Attacked) -> int:
    """Passes forward and backward of an ascent."""
    return int(found.forward) + int(found.backward)
