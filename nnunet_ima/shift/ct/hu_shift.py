"""All Hounsfield units higher or lower: a scanner whose calibration to water has drifted."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from numpy.random import Generator

from nnunet_ima.shift.ct.slices import lacks_hounsfield
from nnunet_ima.shift.disturbance import Disturbance, Parameters
from nnunet_ima.shift.draws import draw_sign
from nnunet_ima.shift.scan import Scan


def _draw(severity: float, scan: Scan, rng: Generator) -> Parameters:
    return {"hounsfield": draw_sign(rng) * severity}


def _apply(scan: Scan, parameters: Mapping[str, Any]) -> Scan:
    return scan.with_channels(scan.channels + parameters["hounsfield"])


HU_SHIFT = Disturbance(
    name="hu-shift",
    modalities=("CT",),
    changes="intensity",
    severities=(10, 20, 40, 60, 100),
    unit="HU, up or down",
    reference="acceptance tests allow 5 to 7 HU for water; beyond that, calibrated",
    drawing=_draw,
    applying=_apply,
    lacking=lacks_hounsfield,
)
