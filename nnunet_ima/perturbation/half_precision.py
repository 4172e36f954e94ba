"""Passes in half precision where nnU-Net trains with it, and attacks' gradients that survive them."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor

from nnunet_ima.perturbation.norms import per_sample

HALF: dict[str, torch.dtype] = {"cuda": torch.float16}
"""Kinds of devices on which networks run in half precision, as nnU-Net's do there, and which one it is."""


def precision(device: torch.device) -> AbstractContextManager[Any]:
    """Context of a network's pass. Each needs one of its own, since autocast keeps cast weights until it ends."""
    half = HALF.get(device.type)
    return nullcontext() if half is None else torch.autocast(device.type, half)


def attacked_pass(network: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """Logits (B, K, ...) in float32 of a pass whose gradient is wanted with respect to the samples, not to weights.

    float16 ends at 65504 and 6e-8. Gradients of a small structure's Dice exceed the one, those of a mean over many
    voxels fall below the other. So they go back through the network with the same size for every sample, and get their
    own at its other end. Powers of two change no digit.

    Args:
        network: samples to logits.
        x: samples (B, C, *spatial) in float32.
    """
    x = x.view_as(x)  # its hook belongs to this pass alone
    with precision(x.device):
        logits = network(x)
    if logits.dtype == torch.float32 or not (logits.requires_grad and x.requires_grad):
        return logits.float()
    logits = logits.float()
    scales: list[Tensor] = []

    def away(gradient: Tensor) -> Tensor:
        largest = gradient.flatten(1).abs().amax(1)
        usable = largest.isfinite() & (largest > 0)
        exponents = torch.where(usable, largest, 1).log2().round().clamp(-120, 120)
        scales[:] = [torch.exp2(-exponents)]
        return gradient * per_sample(scales[0], gradient)

    logits.register_hook(away)
    x.register_hook(lambda gradient: gradient / per_sample(scales[0], gradient))
    return logits
