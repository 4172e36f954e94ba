"""Another contrast between tissues, as another sequence gives it: a power of the intensities, whose range stays."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from numpy.random import Generator

from nnunet_ima.shift.disturbance import Disturbance, Parameters
from nnunet_ima.shift.draws import draw_factor
from nnunet_ima.shift.scan import Scan


def _draw(severity: float, scan: Scan, rng: Generator) -> Parameters:
    return {"gamma": draw_factor(severity, rng)}


def _apply(scan: Scan, parameters: Mapping[str, Any]) -> Scan:
    values = scan.channels.copy()
    for channel in values:
        low, high = channel.min(), channel.max()
        if high > low:
            channel[:] = low + (high - low) * ((channel - low) / (high - low)) ** parameters["gamma"]
    return scan.with_channels(values)


GAMMA = Disturbance(
    name="gamma",
    modalities=("MR",),
    changes="intensity",
    severities=(1.2, 1.4, 1.6, 1.8, 2),
    unit="γ, or 1/γ",
    reference="MedMNIST-C (Di Salvo et al. 2024): up to 2; ROOD-MRI (Boone et al. 2023): 0.3 to 3",
    drawing=_draw,
    applying=_apply,
)
