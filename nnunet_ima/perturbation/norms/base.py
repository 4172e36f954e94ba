"""What a norm of noise is, per sample: size, projection, steepest direction, random draws, and its units.

Tensors have shape (B, C, *spatial); sizes have shape (B,).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import torch
from torch import Tensor

TINY = 1e-12


class Norm(Protocol):
    """What attacks, defences and reports need to know of a norm.

    Attributes:
        name: under which settings and results name it.
    """

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

    def growth(self, elements: float) -> float:
        """How the size of noise of one density grows with the number of elements; 1 for one element."""
        ...


def per_sample(values: Tensor, like: Tensor) -> Tensor:
    """Reshape (B,) to broadcast against `like` (B, ...)."""
    return values.reshape(-1, *[1] * (like.ndim - 1))


def draw(sampler: Callable[..., Tensor], shape: torch.Size, generator: torch.Generator, device: torch.device) -> Tensor:
    """Random numbers, drawn where the generator lives, so that a CPU generator gives every device the same noise."""
    return sampler(shape, generator=generator, device=generator.device).to(device)
