"""Another contrast between tissues: a power of the intensities, whose range stays."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from nnunet_ima.shift.mr.gamma import GAMMA
from nnunet_ima.shift.scan import Scan
from nnunet_ima.shift.searched.change import Change, Kind, between


def _act(channels: Tensor, parameters: Tensor) -> Tensor:
    low, high = channels.amin((1, 2, 3), keepdim=True), channels.amax((1, 2, 3), keepdim=True)
    extent = (high - low).clamp_min(torch.finfo(channels.dtype).tiny)
    share = (channels - low) / extent
    inside = share > 0  # at 0 a power below 1 has no derivative, and the value stays 0
    power = torch.where(inside, share, 1.0) ** parameters.exp()
    return low + extent * torch.where(inside, power, 0.0)


def _make(scan: Scan, severity: float, seed: int, device: torch.device) -> Change:
    low, high = between(-math.log(severity), math.log(severity))
    return Change("gamma", low, high, torch.zeros(1), _act, lambda parameters: f"γ {float(parameters.exp()):.2f}")


GAMMA_SEARCHED = Kind(
    name="gamma",
    modalities=("MR",),
    severities=GAMMA.severities,
    unit=GAMMA.unit,
    parameters="logarithm of γ",
    making=_make,
)
