"""Training with the DDN attack (Rony et al. 2019, arXiv 1811.09600)."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Annotated

import torch
from torch import Tensor

from nnunet_ima.methods.base import Learner, Method, Noise, Step, Steps, passes
from nnunet_ima.methods.climb import Model
from nnunet_ima.perturbation.ascent import input_gradient, steepest
from nnunet_ima.perturbation.draws import Draws
from nnunet_ima.perturbation.norms import per_sample
from nnunet_ima.ranges import Range


@dataclass(kw_only=True)
class DecoupledDirectionNorm(Method):
    """Mean loss of samples under the smallest noise that DDN finds, projected into the ball.

    A sample that DDN cannot mislead, or that is wrong without noise, counts as it is.

    Attributes:
        eps: largest noise.
        steps: gradient steps.
        first: norm that the search begins with, in the unit of ε.
        gamma: by which share the norm grows while the model is right and shrinks while it is wrong.
    """

    eps: Noise
    steps: Steps = 100
    first: Noise = 1.0
    gamma: Annotated[float, Range(0, 0.99)] = 0.05

    def __post_init__(self) -> None:
        if self.run.norm.name != "L2":
            msg = f"ddn knows the L2 norm only, got {self.run.norm.name}"
            raise ValueError(msg)

    def step(self, learner: Learner) -> Step:
        """See `Method.step`."""
        x, norm = learner.x, self.run.norm
        with learner.attackable() as model:
            noise = self.attack(model, learner)
        size = norm.size(noise)
        loss = learner(x + norm.project(noise, self.radius(x, self.eps))).losses.mean()
        learner.backward(loss)
        log = {"attacked": int((size > 0).sum()), "noise": float(size.sum() / self.run.budget.scale)}
        return Step(loss.detach(), log | passes(len(x), len(x) * self.steps, len(x) * self.steps))

    def attack(self, model: Model, learner: Learner) -> Tensor:
        """Return the smallest noise found (B, C, *spatial) that misleads; 0 where none was.

        Every step follows the direction of the gradient, and then sets the norm to what is a little more than it was
        where the model is right, and a little less where it is wrong. Samples never leave, since the norm may shrink to
        the end.
        """
        x, y, norm = learner.x, learner.y, self.run.norm
        everyone, longest = torch.arange(len(x), device=x.device), self.run.budget.effective(self.first)
        draws = Draws(len(x), learner.generator)
        noise, best = torch.zeros_like(x), torch.zeros_like(x)
        radius, smallest = self.radius(x, self.first), torch.full_like(x[:, 0].flatten(1)[:, 0], torch.inf)
        for number in range(self.steps):
            with torch.enable_grad():
                at = (x + noise).requires_grad_()
                logits = model(at)
                gradient = input_gradient(learner.task.loss(logits, y), at)
            wrong = ~(learner.task.score(logits.detach(), y) >= 0)
            size = norm.size(noise)
            better = wrong & (size <= smallest)
            smallest = torch.where(better, size, smallest)
            best = torch.where(per_sample(better, x), noise, best)
            # from the norm that the search begins with to a hundredth of it, as in the paper, where that norm is 1
            stride = longest * (0.01 + 0.99 * (1 + math.cos(math.pi * number / self.steps)) / 2)
            moved = noise + stride * steepest(norm, gradient, learner.free, everyone, draws)
            radius = radius * torch.where(wrong, 1 - self.gamma, 1 + self.gamma)
            noise = moved * per_sample(radius / norm.size(moved).clamp_min(1e-12), x)
        return best
