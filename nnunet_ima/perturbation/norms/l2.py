"""The Euclidean norm."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from nnunet_ima.perturbation.norms.base import TINY, draw, per_sample


class L2:
    """Euclidean norm over all elements of a sample."""

    name = "L2"

    def size(self, delta: Tensor) -> Tensor:
        """See `Norm.size`."""
        size: Tensor = torch.linalg.vector_norm(delta.flatten(1), dim=1)
        return size

    def project(self, delta: Tensor, eps: Tensor) -> Tensor:
        """See `Norm.project`."""
        return delta * per_sample((eps / self.size(delta).clamp_min(TINY)).clamp_max(1), delta)

    def steepest(self, gradient: Tensor) -> Tensor:
        """See `Norm.steepest`."""
        # dividing by the largest entry first keeps squares of tiny half-precision gradients from vanishing
        gradient = gradient / per_sample(gradient.flatten(1).abs().amax(1).clamp_min(1e-30), gradient)
        return gradient / per_sample(self.size(gradient).clamp_min(TINY), gradient)

    def random(self, like: Tensor, generator: torch.Generator) -> Tensor:
        """Uniformly distributed direction, uniformly distributed size."""
        direction = self.steepest(draw(torch.randn, like.shape, generator, like.device))
        return direction * per_sample(draw(torch.rand, like.shape[:1], generator, like.device), direction)

    def growth(self, elements: float) -> float:
        """See `Norm.growth`: noise of one RMS grows with the root of the number of elements."""
        return math.sqrt(elements)
