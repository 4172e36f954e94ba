"""Sums over the voxels of large volumes, slab by slab, in the memory of a slab.

What is asked of fused logits (losses, Dice, counts) is a function of sums over voxels. Probabilities, their logarithms
and indicators of the classes are as large as the logits each, and of a CT scan's many classes already those take tens
of GB. So a large volume is cut along its first axis into slabs, whose sums are added up. On the way back each slab is
computed once more, and what a backward pass keeps is the logits alone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

# Elements of the logits of a slab, 64 MiB in float32: so large that what a slab costs by itself does not matter, and
# that training and most MR volumes are a single slab, of which nothing has to be computed twice.
ELEMENTS = 2**24

Sums = Callable[[Tensor, Tensor], tuple[Tensor, ...]]
"""Logits (B, K, *spatial) and targets (B, ..., *spatial) to sums over their voxels, of any shapes."""


def slabs(logits: Tensor) -> Iterator[slice]:
    """Parts of the first spatial axis of logits (B, K, *spatial) that hold `ELEMENTS` elements at most, if they can."""
    length = logits.shape[2]
    size = max(1, ELEMENTS * length // max(1, logits.numel()))
    return (slice(begin, begin + size) for begin in range(0, length, size))


def summed(function: Sums, logits: Tensor, target: Tensor) -> tuple[Tensor, ...]:
    """Sums over all voxels of logits (B, K, *spatial), of which gradients flow back to the logits.

    Args:
        function: what is summed; its sums over parts of the volume must add up to that over the whole.
        logits: float numbers.
        target: as the function reads it, (B, ..., *spatial) with three axes or more.
    """
    if logits.numel() <= ELEMENTS or logits.shape[2] == 1:
        return function(logits, target)
    found: tuple[Tensor, ...] = _Summed.apply(logits, target, function)  # type: ignore[no-untyped-call]
    return found


class _Summed(torch.autograd.Function):
    """Sums over slabs; the derivative is written slab by slab into the one volume that it needs."""

    @staticmethod
    def forward(ctx: Any, logits: Tensor, target: Tensor, function: Sums) -> tuple[Tensor, ...]:
        ctx.function = function
        ctx.save_for_backward(logits, target)
        total: list[Tensor] = []
        for slab in slabs(logits):
            found = function(logits[:, :, slab], target[:, :, slab])
            total = [a + b for a, b in zip(total, found, strict=True)] if total else list(found)
        return tuple(total)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *derivatives: Tensor) -> tuple[Tensor, None, None]:
        logits, target = ctx.saved_tensors
        found = torch.empty_like(logits)
        for slab in slabs(logits):
            with torch.enable_grad():
                part = logits[:, :, slab].detach().requires_grad_()
                sums = ctx.function(part, target[:, :, slab])
            carried = [(a, b) for a, b in zip(sums, derivatives, strict=True) if a.requires_grad]
            outputs, weights = zip(*carried, strict=True)
            (found[:, :, slab],) = torch.autograd.grad(outputs, part, weights)
        return found, None, None
