"""Is the model right on a sample? A criterion answers with a number that is at least 0 where it is.

The number moves with the distance to the boundary, so that a root finder can use it.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Protocol

import torch
from torch import Tensor

from nnunet_ima.tasks.voxelwise import Labels, hard_dice


class Criterion(Protocol):
    """right(x, y) of the paper, as a score."""

    def score(self, logits: Tensor, target: Tensor) -> Tensor:
        """Scores (B,): at least 0 where the model is right, below 0 where it is wrong."""
        ...


@dataclass(frozen=True)
class DiceCriterion:
    """Segmentation: the Dice of the foreground classes present, reduced to one number, is at least τ.

    Attributes:
        tau: the Dice demanded.
        reduction: "mean", "max" or "min" over the classes present. The reference implementation takes "max", under
            which a class may die while another keeps the sample right.
        labels: how to read the target.

    A sample without foreground scores -inf: nothing can be right about it, it is not attacked.
    """

    tau: float = 0.6
    reduction: str = "mean"
    labels: Labels = field(default_factory=Labels)

    def score(self, logits: Tensor, target: Tensor) -> Tensor:
        """See `Criterion.score`."""
        dice, present = hard_dice(logits, target, self.labels)
        if self.reduction == "mean":
            reduced = (dice * present).sum(1) / present.sum(1)  # NaN where no class is present
        elif self.reduction == "max":
            reduced = dice.masked_fill(~present, -torch.inf).amax(1)
        elif self.reduction == "min":
            reduced = dice.masked_fill(~present, torch.inf).amin(1)
        else:
            msg = f'reduction must be "mean", "max" or "min", got {self.reduction!r}'
            raise ValueError(msg)
        return torch.where(present.any(1), reduced - self.tau, -torch.inf)


class ArgmaxCriterion:
    """Classification: the true class has the largest logit. The score is its lead over the next one."""

    def score(self, logits: Tensor, target: Tensor) -> Tensor:
        """See `Criterion.score`; logits (B, K), target (B,)."""
        truth = logits.gather(1, target[:, None])[:, 0]
        others = logits.scatter(1, target[:, None], -torch.inf).amax(1)
        return truth - others
