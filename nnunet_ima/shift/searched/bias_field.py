"""Uneven sensitivity of the receiver coils: a smooth field whose control values are logarithms of factors."""

from __future__ import annotations

import math
from math import prod

import torch
from torch import Tensor

from nnunet_ima.shift.mr.bias_field import BIAS_FIELD
from nnunet_ima.shift.mr.signal import floor_of
from nnunet_ima.shift.scan import Scan
from nnunet_ima.shift.searched.change import Change, Kind, between, per_channel
from nnunet_ima.shift.searched.smooth import controls, on_grid


def _make(scan: Scan, severity: float, seed: int, device: torch.device) -> Change:
    shape = controls(scan.shape)
    floor = per_channel([floor_of(channel) for channel in scan.channels], device)

    def field(parameters: Tensor) -> Tensor:
        return on_grid(parameters.reshape(shape), scan.shape).exp()

    def act(channels: Tensor, parameters: Tensor) -> Tensor:
        return (channels - floor) * field(parameters) + floor

    def tell(parameters: Tensor) -> str:
        low, high = field(parameters).aminmax()
        return f"non-uniformity {float(200 * (high - low) / (high + low)):.0f} %"

    low, high = between(math.log1p(-severity / 200), math.log1p(severity / 200), prod(shape))
    return Change("bias-field", low, high, torch.zeros_like(low), act, tell)


BIAS_FIELD_SEARCHED = Kind(
    name="bias-field",
    modalities=("MR",),
    severities=BIAS_FIELD.severities,
    unit=BIAS_FIELD.unit,
    parameters="logarithms of the factors at 3 × 3 × 3 points",
    making=_make,
)
