"""A header that tells a wrong spacing along one axis, such as slice thickness instead of slice distance."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.random import Generator

from nnunet_ima.shift.disturbance import Disturbance, Parameters
from nnunet_ima.shift.draws import draw_factor
from nnunet_ima.shift.scan import Scan


def _draw(severity: float, scan: Scan, rng: Generator) -> Parameters:
    axes = [axis for axis in range(3) if scan.shape[axis] > 1]
    return {"axis": int(rng.choice(axes or [0])), "factor": draw_factor(severity, rng)}


def _apply(scan: Scan, parameters: Mapping[str, Any]) -> Scan:
    factors = np.ones(4)
    factors[2 - parameters["axis"]] = parameters["factor"]
    return replace(scan, affine=scan.affine * factors)


WRONG_SPACING = Disturbance(
    name="wrong-spacing",
    modalities=("any",),
    changes="header",
    severities=(1.1, 1.25, 1.5, 2, 3),
    unit="factor along one axis, or its inverse",
    reference="calibrated: 1.25 and 2 are usual ratios of slice thickness to slice distance",
    drawing=_draw,
    applying=_apply,
)
