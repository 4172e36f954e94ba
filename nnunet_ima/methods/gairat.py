"""GAIRAT (Zhang et al. 2021, arXiv 2010.01736): adversarial training weighted by how near the boundary is."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import torch
import torch.nn.functional as F
from torch import Tensor

from nnunet_ima.methods.adv import Adversarial
from nnunet_ima.methods.base import Share, StepFactor, Steps
from nnunet_ima.methods.climb import Climbed
from nnunet_ima.ranges import Range


@dataclass(kw_only=True)
class GeometryAware(Adversarial):
    """Loss under PGD, weighted by how few steps κ it took to mislead the model.

    Attributes:
        eps: the noise level.
        steps: gradient steps K from a random start in the ball.
        alpha: step factor; each step has the size alpha · ε / steps. The paper's 0.007 of 0.031 in 10 steps is 2.26.
        shift: λ in the weight (1 + tanh(λ + 5 (1 - 2κ/K))) / 2.
        begin: share of the epochs after which weights are used; before, all count alike.
    """

    steps: Steps = 10
    alpha: StepFactor = 2.26
    shift: Annotated[float, Range(-100, 100, closed=True)] = -1.0
    begin: Share = 0.5

    def begin_epoch(self, epoch: int) -> None:
        """See `Method.begin_epoch`."""
        self.counts = epoch >= self.begin * self.run.epochs

    def weighted(self, losses: Tensor, found: Climbed) -> Tensor:
        """See `Adversarial.weighted`."""
        return losses * self.weights(found.right) if self.counts else losses

    def weights(self, right: Tensor) -> Tensor:
        """Weights (B,) of mean 1, from the number of steps (B,) that a prediction stayed right."""
        # (1 + tanh z) / 2 = σ(2z), in a form whose sum cannot vanish
        logarithms = F.logsigmoid(2 * (self.shift + 5 * (1 - 2 * right / self.steps)))
        return len(right) * torch.softmax(logarithms, 0)
