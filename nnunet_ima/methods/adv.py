"""Plain adversarial training at one noise level (Madry et al. 2018, arXiv 1706.06083)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from torch import Tensor, nn

from nnunet_ima.methods.ascent import Climbed, climb
from nnunet_ima.methods.base import Method, Noise, Step, StepFactor, Steps, evaluating
from nnunet_ima.perturbation.norms import per_sample


@dataclass(kw_only=True)
class Adversarial(Method):
    """Mean cross-entropy of images under PGD noise, right or wrong as they may be without it.

    Attributes:
        eps: the noise level.
        steps: gradient steps from a random start in the ball.
        alpha: step factor; each step has the size alpha · ε / steps.
        patience: further steps on an image that is wrong; None: all.
    """

    eps: Noise
    steps: Steps = 20
    alpha: StepFactor = 4.0
    patience: int | None = field(init=False, default=None)

    def step(self, model: nn.Module, x: Tensor, y: Tensor, ids: Sequence[str]) -> Step:
        """See `Method.step`."""
        found = self.attack(model, x, y)
        loss = self.cross_entropy(model(found.x), y).mean()
        return Step(loss, {"forward": found.forward + len(x), "backward": found.backward + len(x)})

    def attack(self, model: nn.Module, x: Tensor, y: Tensor) -> Climbed:
        """PGD on all images; see `ascent.climb`."""
        norm, eps = self.run.norm, self.radius(x, self.eps)
        start = norm.random(x, self.generator) * per_sample(eps, x)
        with evaluating(model):
            return climb(
                model,
                x,
                y,
                self.cross_entropy,
                norm=norm,
                eps=eps,
                steps=self.steps,
                factor=self.alpha,
                start=start,
                patience=self.patience,
            )
