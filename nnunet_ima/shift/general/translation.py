"""A patient who does not lie in the middle: image and label map are shifted, what leaves the grid is lost."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from numpy.random import Generator

from nnunet_ima.shift.disturbance import Disturbance, Parameters
from nnunet_ima.shift.draws import draw_direction
from nnunet_ima.shift.rigid import move_rigidly
from nnunet_ima.shift.scan import Scan


def _draw(severity: float, scan: Scan, rng: Generator) -> Parameters:
    return {"millimetres": [severity * part for part in draw_direction(scan, rng)]}


def _apply(scan: Scan, parameters: Mapping[str, Any]) -> Scan:
    return move_rigidly(scan, (0, 0, 0), parameters["millimetres"])


TRANSLATION = Disturbance(
    name="translation",
    modalities=("any",),
    changes="geometry",
    severities=(2, 4, 6, 8, 10),
    unit="mm",
    reference="calibrated: positioning within 1 cm; ROOD-MRI (Boone et al. 2023): 8 to 40",
    drawing=_draw,
    applying=_apply,
)
