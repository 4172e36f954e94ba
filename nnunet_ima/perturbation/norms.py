"""Norms of noise, per sample: size, projection, steepest direction and random draws.

Tensors have shape (B, C, *spatial); sizes have shape (B,).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import torch
from torch import Tensor

_TINY = 1e-12


class Norm(Protocol):
    """What an attack needs to know of a norm."""

    name: str

    def size(self, delta: Tensor) -> Tensor:
        """Norm of each sample of `delta`, shape (B,)."""
        ...

    def project(self, delta: Tensor, eps: Tensor) -> Tensor:
        """Nearest noise of at most size `eps` (B,)."""
        ...

    def steepest(self, gradient: Tensor) -> Tensor:
        """Direction of size 1 along which a linear function of this gradient grows most; 0 where it is 0."""
        ...

    def random(self, like: Tensor, generator: torch.Generator) -> Tensor:
        """Random noise of size at most 1, in the shape of `like`."""
        ...


class L2:
    """Euclidean norm over all elements of a sample."""

    name = "L2"

    def size(self, delta: Tensor) -> Tensor:
        """See `Norm.size`."""
        size: Tensor = torch.linalg.vector_norm(delta.flatten(1), dim=1)
        return size

    def project(self, delta: Tensor, eps: Tensor) -> Tensor:
        """See `Norm.project`."""
        return delta * per_sample((eps / self.size(delta).clamp_min(_TINY)).clamp_max(1), delta)

    def steepest(self, gradient: Tensor) -> Tensor:
        """See `Norm.steepest`."""
        # dividing by the largest entry first keeps squares of tiny half-precision gradients from vanishing
        gradient = gradient / per_sample(gradient.flatten(1).abs().amax(1).clamp_min(1e-30), gradient)
        return gradient / per_sample(self.size(gradient).clamp_min(_TINY), gradient)

    def random(self, like: Tensor, generator: torch.Generator) -> Tensor:
        """Uniformly distributed direction, uniformly distributed size."""
        direction = self.steepest(_draw(torch.randn, like.shape, generator, like.device))
        return direction * per_sample(_draw(torch.rand, like.shape[:1], generator, like.device), direction)


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
        return 2 * _draw(torch.rand, like.shape, generator, like.device) - 1


NORMS: dict[str, Norm] = {norm.name: norm for norm in (L2(), Linf())}


def per_sample(values: Tensor, like: Tensor) -> Tensor:
    """Reshape (B,) to broadcast against `like` (B, ...)."""
    return values.reshape(-1, *[1] * (like.ndim - 1))


def _draw(
    sampler: Callable[..., Tensor], shape: torch.Size, generator: torch.Generator, device: torch.device
) -> Tensor:
    # drawn where the generator lives, so that a CPU generator gives every device the same noise
    return sampler(shape, generator=generator, device=generator.device).to(device)
