"""Random numbers of each sample of its own, so that no sample's draws depend on the others in its batch."""

from __future__ import annotations

import torch
from torch import Tensor

from nnunet_ima.perturbation.norms import Norm


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


def ascent(norm: Norm, gradient: Tensor, free: Tensor | None, samples: Tensor, draws: Draws) -> Tensor:
    """Direction of size 1 (n, C, *spatial) in which to step: the steepest one, any one where the gradient is zero.

    A zero gradient says nothing, and an attack that takes it for a direction never moves.

    Args:
        norm: says which direction is steepest.
        gradient: gradients (n, C, *spatial), 0 where noise may not go.
        free: 1 where noise may go, broadcastable to `gradient`; None: everywhere.
        samples: indices (n,) of the samples.
        draws: where random directions come from.
    """
    lost = (gradient.flatten(1) == 0).all(1).nonzero()[:, 0]
    if len(lost):
        anywhere = draws.normal(samples[lost], gradient[lost])
        gradient = gradient.index_copy(0, lost, anywhere)
        gradient = gradient if free is None else gradient * free
    return norm.steepest(gradient)
