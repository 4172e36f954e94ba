"""Named attacks, as data. Results are stored under these names: a name stands for the same attack everywhere."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import Tensor

from nnunet_ima.attacks.apgd import LARGE_TO_SMALL, apgd
from nnunet_ima.attacks.losses import bound
from nnunet_ima.attacks.noise import white_noise
from nnunet_ima.attacks.pgd import pgd
from nnunet_ima.attacks.problem import Attacked, Loss, Problem
from nnunet_ima.attacks.square import square
from nnunet_ima.tasks.voxelwise import Labels

Attack = Callable[[Problem, Loss, int, torch.Generator, Tensor | None], Attacked]


@dataclass(frozen=True)
class Component:
    """One attack of a preset.

    Attributes:
        name: unique among all presets, unless it is the same attack.
        attack: problem, loss, steps, generator and noise to begin from, to a result.
        steps: gradient steps; draws of white noise; queries of a black box.
        loss: name in `LOSSES` of what is climbed; None: nothing is.
        gradients: whether steps are gradient steps.
    """

    name: str
    attack: Attack
    steps: int
    loss: str | None = "dice_ce"
    gradients: bool = True

    def with_steps(self, steps: int | None) -> Component:
        """Return the attack with another number of gradient steps; without any, or with FGSM's one, as it is."""
        return self if steps is None or not self.gradients or self.steps == 1 else replace(self, steps=steps)

    def run(
        self, problem: Problem, labels: Labels, generator: torch.Generator, start: Tensor | None = None
    ) -> Attacked:
        """Attack.

        Args:
            problem: what to attack.
            labels: how its targets are read.
            generator: source of all random draws.
            start: noise (B, C, *spatial) to begin from; white noise and the Square attack make no use of it.
        """
        return self.attack(problem, bound(self.loss or "dice_ce", labels), self.steps, generator, start)


def _pgd(
    problem: Problem,
    loss: Loss,
    steps: int,
    generator: torch.Generator,
    start: Tensor | None,
    *,
    random_start: bool = True,
) -> Attacked:
    return pgd(problem, loss, steps=steps, generator=generator, random_start=random_start, start=start)


def _apgd(
    problem: Problem,
    loss: Loss,
    steps: int,
    generator: torch.Generator,
    start: Tensor | None,
    *,
    radii: tuple[tuple[float, float], ...] | None = None,
) -> Attacked:
    return apgd(problem, loss, steps=steps, generator=generator, radii=radii, start=start)


def _square(problem: Problem, loss: Loss, steps: int, generator: torch.Generator, start: Tensor | None) -> Attacked:
    # hard Dice stays the same under most squares, and search would have nothing to go by
    return square(problem, lambda logits, y: -loss(logits, y, 0.0), queries=steps, generator=generator)


def _noise(
    problem: Problem, loss: Loss, steps: int, generator: torch.Generator, start: Tensor | None, *, kind: str
) -> Attacked:
    return white_noise(problem, kind, draws=steps, generator=generator)


VERSION = 2  # to be raised when an attack finds other noise than before under the same name

PGD = Component("pgd", _pgd, 100)  # the paper's
SEGPGD = Component("segpgd", _pgd, 100, "segpgd")
_from_clean, _large_to_small = partial(_pgd, random_start=False), partial(_apgd, radii=LARGE_TO_SMALL)

PRESETS: dict[str, tuple[Component, ...]] = {
    "noise-uniform": (Component("noise-uniform", partial(_noise, kind="uniform"), 10, None, False),),
    "noise-gaussian": (Component("noise-gaussian", partial(_noise, kind="gaussian"), 10, None, False),),
    "fgsm": (Component("fgsm", _from_clean, 1),),
    "ifgsm": (Component("ifgsm", _from_clean, 10),),
    "pgd": (PGD,),
    "apgd": (Component("apgd", _apgd, 100),),
    "segpgd": (SEGPGD,),
    "cospgd": (Component("cospgd", _pgd, 100, "cospgd"),),
    "square": (Component("square", _square, 1000, gradients=False),),
    "quick": (Component("apgd-50", _apgd, 50),),
    "standard": (
        PGD,
        Component("apgd-balanced-ce", _large_to_small, 100, "balanced_masked_ce"),
        Component("apgd-js", _large_to_small, 100, "js"),
        Component("apgd-dice", _large_to_small, 100, "dice"),
        SEGPGD,
    ),
}
