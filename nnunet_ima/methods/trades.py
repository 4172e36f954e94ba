"""TRADES (Zhang et al. 2019, arXiv 1901.08573): accuracy on clean images against the change that noise makes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

import torch.nn.functional as F
from torch import Tensor, nn

from nnunet_ima.methods.ascent import climb
from nnunet_ima.methods.base import Method, Noise, Step, StepFactor, Steps, evaluating
from nnunet_ima.perturbation.norms import per_sample
from nnunet_ima.ranges import Range


@dataclass(kw_only=True)
class Trades(Method):
    """Cross-entropy of the clean images plus weight times the divergence KL(p(x) ‖ p(x')) that noise can cause.

    Attributes:
        eps: the noise level.
        weight: of the divergence, 1/λ in the paper.
        steps: gradient steps that raise the divergence.
        alpha: step factor; each step has the size alpha · ε / steps. The paper's 0.007 of 0.031 in 10 steps is 2.26.
        start: size of the random start as a share of ε, since the divergence has no gradient at the clean image.
    """

    eps: Noise
    weight: Annotated[float, Range(0, 1e6, closed=True)] = 6.0
    steps: Steps = 10
    alpha: StepFactor = 2.26
    start: Annotated[float, Range(0, 1)] = 0.03

    def step(self, model: nn.Module, x: Tensor, y: Tensor, ids: Sequence[str]) -> Step:
        """See `Method.step`."""
        norm, eps = self.run.norm, self.radius(x, self.eps)
        start = norm.random(x, self.generator) * per_sample(self.start * eps, x)
        logits = model(x)
        with evaluating(model):
            found = climb(
                model,
                x,
                y,
                divergence,
                target=logits.detach(),
                norm=norm,
                eps=eps,
                steps=self.steps,
                factor=self.alpha,
                start=start,
            )
        loss = self.cross_entropy(logits, y) + self.weight * divergence(model(found.x), logits)
        return Step(loss.mean(), {"forward": found.forward + 2 * len(x), "backward": found.backward + 2 * len(x)})


def divergence(noisy: Tensor, clean: Tensor) -> Tensor:
    """KL(p(clean) ‖ p(noisy)) (B,) of two sets of logits (B, K)."""
    return F.kl_div(F.log_softmax(noisy, 1), F.log_softmax(clean, 1), reduction="none", log_target=True).sum(1)
