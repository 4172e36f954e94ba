"""GAIRAT (Zhang et al. 2021, arXiv 2010.01736): adversarial training that weighs images by how near the boundary is."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Annotated

import torch
from torch import Tensor, nn

from nnunet_ima.methods.adv import Adversarial
from nnunet_ima.methods.base import Share, Step, StepFactor, Steps
from nnunet_ima.ranges import Range


@dataclass(kw_only=True)
class GeometryAware(Adversarial):
    """Cross-entropy under PGD, weighted by how few steps κ it took to mislead the model.

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
    weighing: bool = field(init=False, default=False)

    def begin_epoch(self, epoch: int, generator: torch.Generator) -> None:
        """See `Method.begin_epoch`."""
        super().begin_epoch(epoch, generator)
        self.weighing = epoch >= self.begin * self.run.epochs

    def step(self, model: nn.Module, x: Tensor, y: Tensor, ids: Sequence[str]) -> Step:
        """See `Method.step`."""
        found = self.attack(model, x, y)
        loss = self.cross_entropy(model(found.x), y)
        if self.weighing:
            loss = loss * self.weights(found.right)
        log = {"forward": found.forward + len(x), "backward": found.backward + len(x)}
        return Step(loss.mean(), log)

    def weights(self, right: Tensor) -> Tensor:
        """Weights (B,) of mean 1, from the number of steps (B,) that a prediction stayed right."""
        weights = (1 + torch.tanh(self.shift + 5 * (1 - 2 * right / self.steps))) / 2
        return weights * len(weights) / weights.sum()
