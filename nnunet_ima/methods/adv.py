"""Plain adversarial training at one noise level (Madry et al. 2018, arXiv 1706.06083)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from torch import Tensor

from nnunet_ima.methods.base import Learner, Method, Noise, Step, StepFactor, Steps, passes
from nnunet_ima.methods.climb import Climbed, climb


@dataclass(kw_only=True)
class Adversarial(Method):
    """Mean loss of samples under PGD noise, right or wrong as they may be without it.

    Attributes:
        eps: the noise level.
        steps: gradient steps from a random start in the ball.
        alpha: step factor; each step has the size alpha · ε / steps.
        patience: further steps on a sample that is wrong; None: all.
        counts: whether anybody asks how long a sample stays right.
    """

    eps: Noise
    steps: Steps = 20
    alpha: StepFactor = 4.0
    patience: int | None = field(init=False, default=None)
    counts: bool = field(init=False, default=False)

    def step(self, learner: Learner) -> Step:
        """See `Method.step`."""
        found = self.attack(learner)
        loss = self.weighted(learner(found.x).losses, found).mean()
        learner.backward(loss)
        return Step(loss.detach(), {"attacked": len(found.x), **passes(len(found.x), found.forward, found.backward)})

    def weighted(self, losses: Tensor, found: Climbed) -> Tensor:
        """Losses (B,) as they count."""
        return losses

    def attack(self, learner: Learner, loss: Callable[[Tensor, Tensor], Tensor] | None = None) -> Climbed:
        """PGD on all samples; it climbs the task's loss, or another of logits and indices of the samples."""
        task, y, eps = learner.task, learner.y, self.radius(learner.x, self.eps)

        def right(logits: Tensor, rows: Tensor) -> Tensor:
            return task.score(logits, y[rows]) >= 0

        with learner.attackable() as model:
            return climb(
                model,
                learner.x,
                loss or (lambda logits, rows: task.loss(logits, y[rows])),
                norm=self.run.norm,
                eps=eps,
                steps=self.steps,
                factor=self.alpha,
                start=self.random_start(learner, eps),
                free=learner.free,
                right=right if self.counts or self.patience is not None else None,
                patience=self.patience,
            )
