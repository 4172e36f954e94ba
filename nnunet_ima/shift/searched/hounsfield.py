"""Hounsfield units that are off: all of them, those above water, or those in the middle of the body."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

from nnunet_ima.shift.ct.cupping import CUPPING, cup_shape
from nnunet_ima.shift.ct.hu_scale import HU_SCALE
from nnunet_ima.shift.ct.hu_shift import HU_SHIFT
from nnunet_ima.shift.ct.slices import lacks_hounsfield, pixel_edges, slices_first
from nnunet_ima.shift.scan import Scan
from nnunet_ima.shift.searched.change import Change, Kind, between


def _shift(scan: Scan, severity: float, seed: int, device: torch.device) -> Change:
    low, high = between(-severity, severity)
    return Change(
        "hu-shift",
        low,
        high,
        torch.zeros(1),
        lambda channels, parameters: channels + parameters,
        lambda parameters: f"{float(parameters):+.0f} HU",
    )


def _scale(scan: Scan, severity: float, seed: int, device: torch.device) -> Change:
    low, high = between(-math.log(severity), math.log(severity))
    return Change(
        "hu-scale",
        low,
        high,
        torch.zeros(1),
        lambda channels, parameters: torch.where(channels > 0, channels * parameters.exp(), channels),
        lambda parameters: f"× {float(parameters.exp()):.2f} above water",
    )


def _cup(scan: Scan, severity: float, seed: int, device: torch.device) -> Change:
    cups = np.moveaxis(cup_shape(slices_first(scan)[0], pixel_edges(scan)), 0, scan.slice_axis)
    shape = torch.from_numpy(np.ascontiguousarray(cups)).to(device)

    def act(channels: Tensor, parameters: Tensor) -> Tensor:
        return channels - parameters * shape

    low, high = between(0, severity)
    return Change(
        "cupping", low, high, torch.zeros(1), act, lambda parameters: f"cupping of {float(parameters):.0f} HU"
    )


HU_SHIFT_SEARCHED = Kind(
    "hu-shift", ("CT",), HU_SHIFT.severities, HU_SHIFT.unit, "Hounsfield units", _shift, lacks_hounsfield
)
HU_SCALE_SEARCHED = Kind(
    "hu-scale", ("CT",), HU_SCALE.severities, HU_SCALE.unit, "logarithm of the factor", _scale, lacks_hounsfield
)
CUPPING_SEARCHED = Kind(
    "cupping", ("CT",), CUPPING.severities, CUPPING.unit, "depth in Hounsfield units", _cup, lacks_hounsfield
)
