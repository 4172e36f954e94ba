"""An export with few grey levels, from each channel's smallest to its largest value, and back to raw units."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.random import Generator

from nnunet_ima.shift.disturbance import Disturbance, Parameters
from nnunet_ima.shift.scan import Array, Scan


def quantised(channel: Array, levels: int) -> tuple[Array, float, float]:
    """Grey levels (float32, whole) of a channel, raw units per level, and the raw value of level 0."""
    low, high = float(channel.min()), float(channel.max())
    step = (high - low) / (levels - 1) or 1.0
    return np.rint((channel - low) / step), step, low


def _draw(severity: float, scan: Scan, rng: Generator) -> Parameters:
    return {"levels": int(severity)}


def _apply(scan: Scan, parameters: Mapping[str, Any]) -> Scan:
    values = np.empty_like(scan.channels)
    for channel, exported in zip(scan.channels, values, strict=True):
        grey, step, low = quantised(channel, parameters["levels"])
        exported[:] = grey * step + low
    return scan.with_channels(values)


GREY_LEVELS = Disturbance(
    name="grey-levels",
    modalities=("any",),
    changes="intensity",
    severities=(256, 128, 64, 32, 16),
    unit="grey levels",
    reference="256: a usual export to 8 bits; fewer, where the range is wider than what is of interest",
    drawing=_draw,
    applying=_apply,
    settles=True,
)
