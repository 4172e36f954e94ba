"""A blurred image, alike in all directions of space: a Gaussian whose width is given in mm."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from numpy.random import Generator

from nnunet_ima.shift.disturbance import Disturbance, Parameters
from nnunet_ima.shift.scan import Scan
from nnunet_ima.shift.spectrum import gaussian


def _draw(severity: float, scan: Scan, rng: Generator) -> Parameters:
    return {"fwhm": [severity] * 3}


def _apply(scan: Scan, parameters: Mapping[str, Any]) -> Scan:
    widths = [width / edge for width, edge in zip(parameters["fwhm"], scan.spacing, strict=True)]
    return scan.with_channels(gaussian(scan.channels, widths))


BLUR = Disturbance(
    name="blur",
    modalities=("MR",),
    changes="intensity",
    severities=(1, 2, 3, 5, 8),
    unit="mm, full width at half maximum",
    reference="ROOD-MRI (Boone et al. 2023): σ of 0.8 to 4 mm, which is 1.9 to 9.4 mm",
    drawing=_draw,
    applying=_apply,
)
