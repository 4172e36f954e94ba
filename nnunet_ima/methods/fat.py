"""Friendly adversarial training (Zhang et al. 2020, arXiv 2002.11242): noise that only just misleads."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any

from nnunet_ima.methods.adv import Adversarial
from nnunet_ima.methods.base import StepFactor, Steps
from nnunet_ima.ranges import Range


class Patience:
    """Pairs (share of the epochs, steps); they may be lists, as JSON has no other pairs."""

    share, steps = Range(0, 1, closed=True), Range(0, 100_000, closed=True, whole=True)

    def __str__(self) -> str:
        return (
            "pairs of a share of the epochs (from 0 on, ascending, at most 1) and a whole number of steps "
            f"({self.steps.low:g} to {self.steps.high:.0f}), such as [[0, 0], [0.5, 1], [0.9, 2]]"
        )

    def holds(self, value: Any) -> bool:
        """Whether a value is such pairs."""
        if not isinstance(value, list | tuple) or not value:
            return False
        if not all(isinstance(pair, list | tuple) and len(pair) == 2 for pair in value):
            return False
        if not all(self.share.holds(share) and self.steps.holds(steps) for share, steps in value):
            return False
        shares = [share for share, _ in value]
        return shares[0] == 0 and shares == sorted(set(shares))


@dataclass(kw_only=True)
class Friendly(Adversarial):
    """Mean loss under PGD that stops τ steps after it has misled the model.

    Attributes:
        eps: the noise level.
        steps: most gradient steps, from a random start in the ball.
        alpha: step factor; each step has the size alpha · ε / steps. The paper's 0.007 of 0.031 in 10 steps is 2.26.
        tau: τ from which share of the epochs on; the paper raises it from 0 to 2 while the model learns.
    """

    steps: Steps = 10
    alpha: StepFactor = 2.26
    tau: Annotated[tuple[tuple[float, int], ...], Patience()] = ((0.0, 0), (0.5, 1), (0.9, 2))

    def begin_epoch(self, epoch: int) -> None:
        """See `Method.begin_epoch`."""
        self.patience = [tau for share, tau in self.tau if epoch >= share * self.run.epochs][-1]
