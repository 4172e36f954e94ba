"""A patient who lies tilted: image and label map are rotated about one axis of the grid."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from numpy.random import Generator

from nnunet_ima.shift.disturbance import Disturbance, Parameters
from nnunet_ima.shift.draws import draw_rotation
from nnunet_ima.shift.rigid import move_rigidly
from nnunet_ima.shift.scan import Scan


def _draw(severity: float, scan: Scan, rng: Generator) -> Parameters:
    return {"degrees": draw_rotation(severity, scan, rng)}


def _apply(scan: Scan, parameters: Mapping[str, Any]) -> Scan:
    return move_rigidly(scan, parameters["degrees"], (0, 0, 0))


ROTATION = Disturbance(
    name="rotation",
    modalities=("any",),
    changes="geometry",
    severities=(2, 5, 10, 15, 20),
    unit="degrees",
    reference="calibrated: careful positioning to a patient who cannot lie straight; ROOD-MRI (2023): up to 30",
    drawing=_draw,
    applying=_apply,
)
