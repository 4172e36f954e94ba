"""Random numbers of each sample of its own, so that no sample's draws depend on the others in its batch."""

from __future__ import annotations

import torch
from torch import Tensor


class Draws:
    """One stream of random numbers for each sample.

    Attributes:
        streams: generators of the samples, on the CPU.
    """

    def __init__(self, samples: int, generator: torch.Generator) -> None:
        seeds = torch.randint(2**62, (samples,), generator=generator, device=generator.device)
        self.streams = [torch.Generator().manual_seed(seed) for seed in seeds.tolist()]

    def normal(self, samples: Tensor, like: Tensor) -> Tensor:
        """Normally distributed numbers (n, ...) in the shape of `like`, for samples of given indices (n,)."""
        drawn = [torch.randn(like.shape[1:], generator=self.streams[sample]) for sample in samples.tolist()]
        return torch.stack(drawn).to(like) if drawn else torch.empty_like(like)
