"""The largest change of any element."""

from __future__ import annotations

import torch
from torch import Tensor

from nnunet_ima.perturbation.norms.base import draw, per_sample


class Linf:
    """Largest absolute change of any element."""

    name = "Linf"

    def size(self, delta: Tensor) -> Tensor:
        """See `Norm.size`."""
        return delta.flatten(1).abs().amax(1)

    def project(self, delta: Tensor, eps: Tensor) -> Tensor:
        """See `Norm.project`."""
        bound = per_sample(eps, delta)
        return delta.clamp(-bound, bound)

    def steepest(self, gradient: Tensor) -> Tensor:
        """See `Norm.steepest`."""
        return gradient.sign()

    def random(self, like: Tensor, generator: torch.Generator) -> Tensor:
        """Independent, uniformly distributed elements."""
        return 2 * draw(torch.rand, like.shape, generator, like.device) - 1

    def growth(self, elements: float) -> float:
        """See `Norm.growth`: a bound on every element is the same for any number of them."""
        return 1.0
