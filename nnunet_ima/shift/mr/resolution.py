"""A coarser acquisition on the same grid: only the middle of k-space is there, and edges ring (Gibbs)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.random import Generator

from nnunet_ima.shift.disturbance import Disturbance, Parameters
from nnunet_ima.shift.mr.signal import as_magnitude
from nnunet_ima.shift.scan import Scan
from nnunet_ima.shift.spectrum import filtered


def _draw(severity: float, scan: Scan, rng: Generator) -> Parameters:
    return {"coarser": severity, "axes": list(scan.in_plane)}


def _apply(scan: Scan, parameters: Mapping[str, Any]) -> Scan:
    kept = np.pi / parameters["coarser"]
    values = scan.channels
    for axis in parameters["axes"]:
        values = filtered(values, axis + 1, lambda omega: omega < kept)
    return scan.with_channels(as_magnitude(values, scan.channels))


RESOLUTION = Disturbance(
    name="resolution",
    modalities=("MR",),
    changes="intensity",
    severities=(1.25, 1.5, 2, 2.5, 3),
    unit="acquired / stored pixel edge",
    reference="calibrated: from common interpolation of the scanner (1.25 to 2) to a fast localiser (3)",
    drawing=_draw,
    applying=_apply,
)
