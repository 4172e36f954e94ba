"""The registry of attacks, for all tasks. Results are stored under these names: a name stands for one attack for ever.

A new attack is a function in a file of its own and a line in `PRESETS`; a new loss, a line in `losses.LOSSES`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import Tensor

from nnunet_ima.attacks.apgd import LARGE_TO_SMALL, apgd
from nnunet_ima.attacks.few_slices import few_slices
from nnunet_ima.attacks.losses import bound, find_loss
from nnunet_ima.attacks.noise import white_noise
from nnunet_ima.attacks.pgd import pgd
from nnunet_ima.attacks.problem import Attacked, Loss, Problem
from nnunet_ima.attacks.spsa import spsa
from nnunet_ima.attacks.square import square
from nnunet_ima.tasks.voxelwise import Labels

ONE = 1e-9  # share of the slices of which there is one, however many there are
PROBED_AT_ONCE = 2**24  # elements of the samples that SPSA puts into one pass

Attack = Callable[[Problem, Loss, int, torch.Generator, Tensor | None], Attacked]


@dataclass(frozen=True)
class Component:
    """One attack of a preset.

    Attributes:
        name: unique among all presets, unless it is the same attack.
        attack: problem, loss, steps, generator and noise to begin from, to a result.
        steps: gradient steps; draws of white noise; queries or steps of a black box.
        loss: name or role of what is climbed, see `losses.find_loss`; None: nothing is.
        gradients: whether steps are gradient steps.
        passes: forward passes of a step that is no gradient step.
        races: it gives up where it will hardly get below what the preset's attacks before it have reached.
    """

    name: str
    attack: Attack
    steps: int
    loss: str | None = "trained"
    gradients: bool = True
    passes: int = 1
    races: bool = False

    def with_steps(self, steps: int | None) -> Component:
        """Return the attack with another number of gradient steps; without any, or with FGSM's one, as it is."""
        return self if steps is None or not self.gradients or self.steps == 1 else replace(self, steps=steps)

    def run(
        self, problem: Problem, labels: Labels | None, generator: torch.Generator, start: Tensor | None = None
    ) -> Attacked:
        """Attack.

        Args:
            problem: what to attack.
            labels: how its targets are read; None: they are classes.
            generator: source of all random draws.
            start: noise (B, C, *spatial) to begin from; attacks without gradients make no use of it.
        """
        return self.attack(problem, bound(self.loss or "trained", labels), self.steps, generator, start)

    def keeps_form(self, labels: Labels | None) -> bool:
        """Whether what is climbed is the same function at every step; see `losses.AttackLoss`."""
        return self.loss is None or find_loss(self.loss, labels).keeps_form


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


def _spsa(
    problem: Problem, loss: Loss, steps: int, generator: torch.Generator, start: Tensor | None, *, samples: int
) -> Attacked:
    chunk = max(2, min(256, PROBED_AT_ONCE // problem.x[0].numel()))
    return spsa(problem, loss, samples=samples, steps=steps, generator=generator, chunk=chunk)


def _noise(
    problem: Problem, loss: Loss, steps: int, generator: torch.Generator, start: Tensor | None, *, kind: str
) -> Attacked:
    return white_noise(problem, kind, draws=steps, generator=generator)


def _few_slices(
    problem: Problem, loss: Loss, steps: int, generator: torch.Generator, start: Tensor | None, *, share: float
) -> Attacked:
    return few_slices(problem, loss, steps=steps, generator=generator, share=share, start=start)


VERSION = 3  # to be raised when an attack finds other noise than before under the same name

PGD = Component("pgd", _pgd, 100)  # the paper's
SEGPGD = Component("segpgd", _pgd, 100, "segpgd")
_from_clean, _large_to_small = partial(_pgd, random_start=False), partial(_apgd, radii=LARGE_TO_SMALL)

APGD_DICE = Component("apgd-dice", _large_to_small, 100, "dice")
APGD_CE = Component("apgd-balanced-ce", _large_to_small, 100, "balanced_masked_ce")
STANDARD = (PGD, APGD_CE, Component("apgd-js", _large_to_small, 100, "js"), APGD_DICE, SEGPGD)


def _racing(component: Component) -> Component:
    return replace(component, name=f"{component.name}-racing", races=True)


PRESETS: dict[str, tuple[Component, ...]] = {
    "noise-uniform": (Component("noise-uniform", partial(_noise, kind="uniform"), 10, None, False),),
    "noise-gaussian": (Component("noise-gaussian", partial(_noise, kind="gaussian"), 10, None, False),),
    "fgsm": (Component("fgsm", _from_clean, 1),),
    "ifgsm": (Component("ifgsm", _from_clean, 10),),
    "pgd": (PGD,),
    "apgd": (Component("apgd", _apgd, 100),),
    "segpgd": (SEGPGD,),
    "cospgd": (Component("cospgd", _pgd, 100, "cospgd"),),
    "few-slices": (Component("few-slices", partial(_few_slices, share=0.1), 100),),
    "few-slices-25": (Component("few-slices-25", partial(_few_slices, share=0.25), 100),),
    "one-slice": (Component("one-slice", partial(_few_slices, share=ONE), 100),),
    "square": (Component("square", _square, 1000, "searched", False),),
    "spsa": (Component("spsa", partial(_spsa, samples=128), 20, "searched", False, passes=129),),
    "quick": (Component("apgd-50", _apgd, 50),),
    "fast": (APGD_DICE, APGD_CE),
    "standard": STANDARD,
    "race": (APGD_DICE, *(_racing(component) for component in STANDARD if component is not APGD_DICE)),
    "full": (
        *STANDARD,
        Component("apgd-masked-ce", _large_to_small, 100, "masked_ce"),
        Component("apgd-cos", _apgd, 100, "cospgd"),
        Component("apgd-dice-again", _large_to_small, 100, "dice"),  # its name seeds another random start
        Component("apgd-dice-at-eps", _apgd, 100, "dice"),
    ),
}


def find_component(preset: str, name: str) -> Component:
    """One of a preset's attacks."""
    return next(component for component in PRESETS[preset] if component.name == name)
