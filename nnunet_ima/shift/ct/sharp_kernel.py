"""A sharper reconstruction kernel, as for bone or lung: fine structure and noise within the slices are raised."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from numpy.random import Generator

from nnunet_ima.shift.ct.slices import lacks_hounsfield
from nnunet_ima.shift.disturbance import Disturbance, Parameters
from nnunet_ima.shift.scan import Scan
from nnunet_ima.shift.spectrum import gaussian

WIDTH = 2.0  # mm, full width at half maximum of the detail that is raised


def _draw(severity: float, scan: Scan, rng: Generator) -> Parameters:
    return {"gain": severity, "fwhm": [WIDTH if axis in scan.in_plane else 0 for axis in range(3)]}


def _apply(scan: Scan, parameters: Mapping[str, Any]) -> Scan:
    widths = [width / edge for width, edge in zip(parameters["fwhm"], scan.spacing, strict=True)]
    detail = scan.channels - gaussian(scan.channels, widths)
    return scan.with_channels(scan.channels + (parameters["gain"] - 1) * detail)


SHARP_KERNEL = Disturbance(
    name="sharp-kernel",
    modalities=("CT",),
    changes="intensity",
    severities=(1.5, 2, 3, 4, 6),
    unit="gain of the finest structure",
    reference="calibrated: kernels for lung and bone show several times the noise of those for soft tissue",
    drawing=_draw,
    applying=_apply,
    lacking=lacks_hounsfield,
)
