"""A softer reconstruction kernel: blurred within the slices, not across them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from numpy.random import Generator

from nnunet_ima.shift.ct.slices import lacks_hounsfield
from nnunet_ima.shift.disturbance import Disturbance, Parameters
from nnunet_ima.shift.scan import Scan
from nnunet_ima.shift.spectrum import gaussian


def _draw(severity: float, scan: Scan, rng: Generator) -> Parameters:
    return {"fwhm": [severity if axis in scan.in_plane else 0 for axis in range(3)]}


def _apply(scan: Scan, parameters: Mapping[str, Any]) -> Scan:
    widths = [width / edge for width, edge in zip(parameters["fwhm"], scan.spacing, strict=True)]
    return scan.with_channels(gaussian(scan.channels, widths))


SOFT_KERNEL = Disturbance(
    name="soft-kernel",
    modalities=("CT",),
    changes="intensity",
    severities=(1, 1.5, 2, 3, 4),
    unit="mm in the slice, full width at half maximum",
    reference="point spread functions of CT are close to Gaussians (Nickoloff & Riley 1985); widths calibrated",
    drawing=_draw,
    applying=_apply,
    lacking=lacks_hounsfield,
)
