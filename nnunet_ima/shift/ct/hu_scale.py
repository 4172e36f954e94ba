"""Another tube voltage: bone and contrast medium stand out more from water at a low one, and less at a high one.

What is denser than water is scaled about water; fat and air, whose contrast hardly depends on the voltage, stay.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.random import Generator

from nnunet_ima.shift.ct.slices import lacks_hounsfield
from nnunet_ima.shift.disturbance import Disturbance, Parameters
from nnunet_ima.shift.draws import draw_factor
from nnunet_ima.shift.scan import Scan


def _draw(severity: float, scan: Scan, rng: Generator) -> Parameters:
    return {"factor": draw_factor(severity, rng)}


def _apply(scan: Scan, parameters: Mapping[str, Any]) -> Scan:
    return scan.with_channels(np.where(scan.channels > 0, scan.channels * parameters["factor"], scan.channels))


HU_SCALE = Disturbance(
    name="hu-scale",
    modalities=("CT",),
    changes="intensity",
    severities=(1.05, 1.1, 1.2, 1.35, 1.6),
    unit="factor above 0 HU, or its inverse",
    reference="Huda et al. 2000: from 80 to 140 kV bone loses 39 % and iodine 50 % of their contrast to water",
    drawing=_draw,
    applying=_apply,
    lacking=lacks_hounsfield,
)
