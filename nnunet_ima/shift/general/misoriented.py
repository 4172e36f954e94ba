"""Axes stored in other directions and another order, while the affine stays: a converter that lost the orientation.

The label map was lost alike, so that it still lies on the structures that it marks.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from numpy.random import Generator

from nnunet_ima.shift.disturbance import Disturbance, Parameters
from nnunet_ima.shift.orientation import CHANGES, draw_orientation, turn
from nnunet_ima.shift.scan import Scan


def _draw(severity: float, scan: Scan, rng: Generator) -> Parameters:
    return draw_orientation(int(severity), scan, rng)


def _apply(scan: Scan, parameters: Mapping[str, Any]) -> Scan:
    return replace(scan, channels=turn(scan.channels, parameters), label=turn(scan.label, parameters))


MISORIENTED = Disturbance(
    name="misoriented",
    modalities=("any",),
    changes="header",
    severities=CHANGES,
    unit="axes flipped (up to 3), then pairs interchanged (up to 2)",
    reference="mistakes of converters; the number of changes is a count, no strength",
    drawing=_draw,
    applying=_apply,
)
