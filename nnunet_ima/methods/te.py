"""Temporal ensembling (Dong et al. 2022, arXiv 2106.01606): adversarial training that does not memorise hard labels.

The paper averages the predictions of past epochs of each image. Random crops and mirrorings have no past: here the
average is that of the weights, and its prediction on the same clean sample is what the paper's average stands for.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any

import torch
from torch import Tensor, nn

from nnunet_ima.methods.adv import Adversarial
from nnunet_ima.methods.averaging import WeightAverage
from nnunet_ima.methods.base import Learner, Share, Step, passes
from nnunet_ima.ranges import Range


@dataclass(kw_only=True)
class TemporalEnsembling(Adversarial):
    """Loss under PGD plus a ramped weight times the distance to what the averaged weights predict without noise.

    Attributes:
        eps: the noise level.
        steps: gradient steps from a random start in the ball; they climb both parts.
        alpha: step factor; each step has the size alpha · ε / steps.
        weight: of the squared distance of the probabilities, summed over classes; the paper's 300 is for their mean.
        begin: share of the epochs after which the weight rises from 0; the paper's 90 of 200.
        end: share of the epochs after which it stays, having risen as exp(-5 (1 - t)²); the paper's 150 of 200.
        decay: of the averaged weights, for each optimiser step.
    """

    weight: Annotated[float, Range(0, 1e6, closed=True)] = 30.0
    begin: Share = 0.45
    end: Share = 0.75
    decay: Annotated[float, Range(0, 0.999999, closed=True)] = 0.99
    ramped: float = field(init=False, default=0.0)
    average: WeightAverage = field(init=False, repr=False)

    def __post_init__(self) -> None:
        if self.begin > self.end:
            msg = f"begin ({self.begin:g}) must not exceed end ({self.end:g})"
            raise ValueError(msg)
        self.average = WeightAverage(self.decay)

    def begin_epoch(self, epoch: int) -> None:
        """See `Method.begin_epoch`."""
        done, first, last = epoch / self.run.epochs, self.begin, self.end
        risen = 1.0 if done >= last else (done - first) / (last - first)
        self.ramped = 0.0 if done < first else self.weight * math.exp(-5 * (1 - risen) ** 2)

    def step(self, learner: Learner) -> Step:
        """See `Method.step`."""
        if not self.ramped:
            return super().step(learner)
        task, y, count = learner.task, learner.y, len(learner.x)
        with learner.attackable(self.average.start(learner.network)) as past, torch.no_grad():
            aim = past(learner.x)

        def loss(logits: Tensor, rows: Tensor) -> Tensor:
            return task.loss(logits, y[rows]) + self.ramped * task.distance(logits, aim[rows], y[rows])

        found = self.attack(learner, loss)
        noisy = learner(found.x)
        total = (noisy.losses + self.ramped * task.distance(noisy.logits, aim, y)).mean()
        learner.backward(total)
        spent = passes(count, found.forward + count, found.backward)
        return Step(total.detach(), {"attacked": count, **spent})

    def learnt(self, network: nn.Module) -> None:
        """See `Method.learnt`."""
        self.average.update(network)

    def state_dict(self) -> dict[str, Any]:
        """See `Method.state_dict`."""
        return {"average": self.average.state_dict()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """See `Method.load_state_dict`."""
        self.average.load_state_dict(state["average"])
