"""Batches that samples leave one by one, in few sizes."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

DEVICES = {"cuda"}
"""Kinds of devices on which a size that is new costs time."""
SIZES = 8


def few_sizes(model: Callable[[Tensor], Tensor], whole: int) -> Callable[[Tensor], Tensor]:
    """Let a model see at most eight sizes of batches on a GPU, filled up with copies that nothing depends on.

    For a size that it has not seen, cuDNN makes a plan for each layer, and times all algorithms where nnU-Net asks for
    it. Samples that leave an attack one by one have as many sizes as a batch has samples: on an H200 the first epoch of
    IMA with batches of 32 took 64 s, later ones 10 s.

    Args:
        model: samples (B, ...) to an output (B, ...), each by itself.
        whole: samples of a whole batch.
    """

    def filled(x: Tensor) -> Tensor:
        return model(fill(x, missing))[: len(x)] if (missing := missing_samples(x, whole)) else model(x)

    return filled


def missing_samples(x: Tensor, whole: int) -> int:
    """Samples that (B, ...) lacks to a multiple of an eighth of a whole batch, or to that; 0 on a CPU."""
    step = -(-whole // SIZES)
    wanted = min(-(-len(x) // step) * step, whole)
    return max(0, wanted - len(x)) if x.device.type in DEVICES else 0


def fill(x: Tensor, missing: int) -> Tensor:
    """Samples (B, ...), and behind them the last one as often as wanted; these pass no gradient on."""
    return torch.cat([x, x[-1:].detach().expand(missing, *x.shape[1:])])
