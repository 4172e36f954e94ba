"""Noise of the receiver (MR) and of the dose (CT), of a level and a pattern that are searched.

A voxel by voxel search would be an attack, which no scanner makes. Here a pattern is a mixture of a few independent
draws with weights of length 1, which is a draw of the same noise again: as white, as Gaussian, of the same variance.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from nnunet_ima.shift.ct.dose import DOSE, FULL_DOSE_NOISE, noise_filters, unit_noise
from nnunet_ima.shift.ct.slices import lacks_hounsfield, pixel_edges, slices_first
from nnunet_ima.shift.mr.rician_noise import RICIAN_NOISE
from nnunet_ima.shift.mr.signal import floor_of, mean_signal
from nnunet_ima.shift.scan import Scan
from nnunet_ima.shift.searched.change import Change, Kind, between, per_channel

DRAWS = 4


def mixed(draws: Tensor, weights: Tensor) -> Tensor:
    """Draws (N, ...) mixed with weights (N,) that are brought to length 1."""
    unit = weights / weights.square().sum().clamp_min(1e-12).sqrt()
    mixture: Tensor = torch.tensordot(unit, draws, dims=1)
    return mixture


def _box(largest: float) -> tuple[Tensor, Tensor, Tensor]:
    """Limits and identity of a level from 0, and of weights."""
    (low, high), (least, most) = between(0, largest), between(-1, 1, DRAWS)
    return torch.cat((low, least)), torch.cat((high, most)), torch.cat((low, most))


def _rician(scan: Scan, severity: float, seed: int, device: torch.device) -> Change:
    rng = np.random.default_rng([seed, 1])
    drawn = rng.standard_normal((DRAWS, 2, *scan.channels.shape), np.float32)
    draws = torch.from_numpy(drawn).to(device)
    floor = per_channel([floor_of(channel) for channel in scan.channels], device)
    signal = per_channel([mean_signal(channel) for channel in scan.channels], device)

    def act(channels: Tensor, parameters: Tensor) -> Tensor:
        real, imaginary = parameters[0] * signal * mixed(draws, parameters[1:])
        power = (channels - floor + real).square() + imaginary.square()
        there = power > 0  # the root has no derivative at 0
        return torch.where(there, torch.where(there, power, 1.0).sqrt(), 0.0) + floor

    def tell(parameters: Tensor) -> str:
        return f"Rician noise of {float(parameters[0]):.3f} of the foreground's mean"

    return Change("rician-noise", *_box(severity), act, tell)


def _dose(scan: Scan, severity: float, seed: int, device: torch.device) -> Change:
    rng, edges = np.random.default_rng([seed, 2]), pixel_edges(scan)
    slices = slices_first(scan)
    filters = noise_filters(slices.shape[2:], edges)
    drawn = np.empty((DRAWS, *slices.shape), np.float32)
    for place in np.ndindex(drawn.shape[:3]):
        drawn[place] = unit_noise(slices[place[1:]], edges, filters, rng)
    draws = torch.from_numpy(drawn).to(device).movedim(2, scan.slice_axis + 2)

    def act(channels: Tensor, parameters: Tensor) -> Tensor:
        return channels + parameters[0] * mixed(draws, parameters[1:])

    def tell(parameters: Tensor) -> str:
        sigma = float(parameters[0])
        return f"noise of {sigma:.0f} HU, as at {1 / (1 + (sigma / FULL_DOSE_NOISE) ** 2):.0%} of the dose"

    return Change("dose", *_box(FULL_DOSE_NOISE * (1 / severity - 1) ** 0.5), act, tell)


RICIAN_NOISE_SEARCHED = Kind(
    name="rician-noise",
    modalities=("MR",),
    severities=RICIAN_NOISE.severities,
    unit=RICIAN_NOISE.unit,
    parameters=f"level, and weights of {DRAWS} draws",
    making=_rician,
)
DOSE_SEARCHED = Kind(
    name="dose",
    modalities=("CT",),
    severities=DOSE.severities,
    unit=DOSE.unit,
    parameters=f"level in HU, and weights of {DRAWS} draws",
    making=_dose,
    lacking=lacks_hounsfield,
)
