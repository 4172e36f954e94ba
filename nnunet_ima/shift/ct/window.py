"""An export through a window for soft tissue: what lies outside of it is clipped, Hounsfield units stay."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.random import Generator

from nnunet_ima.shift.ct.slices import lacks_hounsfield
from nnunet_ima.shift.disturbance import Disturbance, Parameters
from nnunet_ima.shift.scan import Scan

LEVEL = 40  # HU, of the usual windows for soft tissue


def _draw(severity: float, scan: Scan, rng: Generator) -> Parameters:
    return {"low": LEVEL - severity / 2, "high": LEVEL + severity / 2}


def _apply(scan: Scan, parameters: Mapping[str, Any]) -> Scan:
    return scan.with_channels(np.clip(scan.channels, parameters["low"], parameters["high"]))


WINDOW = Disturbance(
    name="window",
    modalities=("CT",),
    changes="intensity",
    severities=(2000, 1000, 700, 400, 200),
    unit="HU, width of the window around 40 HU",
    reference="usual windows: 400 abdomen and mediastinum; wider and narrower ones, calibrated",
    drawing=_draw,
    applying=_apply,
    lacking=lacks_hounsfield,
    settles=True,
)
