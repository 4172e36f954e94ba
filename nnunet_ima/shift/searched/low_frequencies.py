"""Large structures that are brighter or darker than usual: gains of the lowest frequencies of the image."""

from __future__ import annotations

import math
from math import prod

import torch
from torch import Tensor

from nnunet_ima.shift.mr.signal import floor_of
from nnunet_ima.shift.scan import Scan
from nnunet_ima.shift.searched.blur import along, cosines
from nnunet_ima.shift.searched.change import Change, Kind, between, per_channel

FREQUENCIES = 3  # along each axis, the mean included, which stays


def _make(scan: Scan, severity: float, seed: int, device: torch.device) -> Change:
    low_pass = [cosines(size, device)[:FREQUENCIES] for size in scan.shape]
    counts = [len(matrix) for matrix in low_pass]
    floor = per_channel([floor_of(channel) for channel in scan.channels], device)

    def act(channels: Tensor, parameters: Tensor) -> Tensor:
        spectrum = channels
        for axis, matrix in enumerate(low_pass):
            spectrum = along(spectrum, axis + 1, matrix)
        gains = torch.cat((parameters.new_zeros(1), parameters)).expm1().reshape(counts)
        added = spectrum * gains
        for axis, matrix in enumerate(low_pass):
            added = along(added, axis + 1, matrix.T)
        return (channels + added - floor).abs() + floor  # a magnitude, as scanners store it

    def tell(parameters: Tensor) -> str:
        factor = float(parameters.abs().max().exp()) if len(parameters) else 1.0
        return f"lowest frequencies × or ÷ up to {factor:.2f}"

    low, high = between(-math.log(severity), math.log(severity), prod(counts) - 1)
    return Change("low-frequencies", low, high, torch.zeros_like(low), act, tell)


LOW_FREQUENCIES_SEARCHED = Kind(
    name="low-frequencies",
    modalities=("MR",),
    severities=(1.1, 1.2, 1.3, 1.4, 1.5),
    unit="gain of a frequency, or its inverse",
    parameters="logarithms of the gains of the 26 lowest frequencies",
    making=_make,
)
