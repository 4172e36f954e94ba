"""Uneven sensitivity of the receiver coils: a smooth multiplicative field, a polynomial in the exponent (TorchIO)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.random import Generator

from nnunet_ima.shift.disturbance import Disturbance, Parameters
from nnunet_ima.shift.mr.signal import floor_of, foreground_of
from nnunet_ima.shift.scan import Array, Scan
from nnunet_ima.shift.through_torchio import torchio

ORDER = 3
COEFFICIENTS = 20  # of a polynomial of that order in three variables


def _draw(severity: float, scan: Scan, rng: Generator) -> Parameters:
    """Scale a random polynomial, and add a constant, so that the field has this range over the foreground."""
    factors = [1 - severity / 200, 1 + severity / 200]
    low, high = np.log(factors)
    coefficients = rng.normal(size=COEFFICIENTS)
    foreground = foreground_of(scan.channels[0])
    exponent = np.log(_field(scan, coefficients.tolist()))[foreground if foreground.any() else ...]
    scale = (high - low) / (float(np.ptp(exponent)) or 1.0)
    coefficients *= scale
    coefficients[0] += low - scale * exponent.min()
    return {"coefficients": coefficients.tolist(), "factors": factors}


def _apply(scan: Scan, parameters: Mapping[str, Any]) -> Scan:
    # in the air beyond the foreground the polynomial would run away
    field = np.clip(_field(scan, parameters["coefficients"]), *parameters["factors"])
    floors = [floor_of(channel) for channel in scan.channels]
    biased = [(channel - floor) * field + floor for channel, floor in zip(scan.channels, floors, strict=True)]
    return scan.with_channels(np.stack(biased))


def _field(scan: Scan, coefficients: list[float]) -> Array:
    """Sensitivity (Z, Y, X)."""
    field: Array = torchio().BiasField.generate_bias_field(scan.channels, ORDER, coefficients)
    return field


BIAS_FIELD = Disturbance(
    name="bias-field",
    modalities=("MR",),
    changes="intensity",
    severities=(20, 40, 60, 80, 100),
    unit="% non-uniformity",
    reference="BrainWeb's measure (20 %: factors from 0.9 to 1.1) and its levels 20 and 40 %, and beyond",
    drawing=_draw,
    applying=_apply,
)
