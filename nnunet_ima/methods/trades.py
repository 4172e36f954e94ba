"""TRADES (Zhang et al. 2019, arXiv 1901.08573): accuracy on clean samples against the change that noise makes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar

from torch import Tensor

from nnunet_ima.methods.base import Learner, Method, Noise, Step, StepFactor, Steps, passes
from nnunet_ima.methods.climb import climb
from nnunet_ima.ranges import Range


@dataclass(kw_only=True)
class Trades(Method):
    """Loss of the clean samples plus weight times the divergence KL(p(x) ‖ p(x')) that noise can cause.

    Attributes:
        eps: the noise level.
        weight: of the divergence, 1/λ in the paper.
        steps: gradient steps that raise the divergence.
        alpha: step factor; each step has the size alpha · ε / steps. The paper's 0.007 of 0.031 in 10 steps is 2.26.
        start: size of the random start as a share of ε, since the divergence has no gradient at the clean sample.
    """

    learning_passes: ClassVar[int] = 2
    eps: Noise
    weight: Annotated[float, Range(0, 1e6, closed=True)] = 6.0
    steps: Steps = 10
    alpha: StepFactor = 2.26
    start: Annotated[float, Range(0, 1)] = 0.03

    def step(self, learner: Learner) -> Step:
        """See `Method.step`."""
        x, y, task, eps = learner.x, learner.y, learner.task, self.radius(learner.x, self.eps)
        start = self.random_start(learner, self.start * eps)
        clean = learner(x)
        aim = clean.logits.detach()

        def loss(logits: Tensor, rows: Tensor) -> Tensor:
            return task.divergence(logits, aim[rows], y[rows])

        with learner.attackable() as model:
            found = climb(
                model,
                x,
                loss,
                norm=self.run.norm,
                eps=eps,
                steps=self.steps,
                factor=self.alpha,
                start=start,
                free=learner.free,
            )
        noisy = learner(found.x)
        total = (clean.losses + self.weight * task.divergence(noisy.logits, clean.logits, y)).mean()
        learner.backward(total)
        return Step(total.detach(), {"attacked": len(x), **passes(2 * len(x), found.forward, found.backward)})
