"""Axes stored in other directions and another order, with the affine that tells so: in the world nothing changes.

Who reads voxels and no affine sees a mirrored or turned patient.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from numpy.random import Generator

from nnunet_ima.shift.disturbance import Disturbance, Parameters
from nnunet_ima.shift.orientation import CHANGES, draw_orientation, turn, turned_affine
from nnunet_ima.shift.scan import Scan


def _draw(severity: float, scan: Scan, rng: Generator) -> Parameters:
    return draw_orientation(int(severity), scan, rng)


def _apply(scan: Scan, parameters: Mapping[str, Any]) -> Scan:
    return replace(
        scan,
        channels=turn(scan.channels, parameters),
        label=turn(scan.label, parameters),
        affine=turned_affine(scan, parameters),
    )


REORIENTED = Disturbance(
    name="reoriented",
    modalities=("any",),
    changes="geometry",
    severities=CHANGES,
    unit="axes flipped (up to 3), then pairs interchanged (up to 2)",
    reference="orientations that scanners and converters write; the number of changes is a count, no strength",
    drawing=_draw,
    applying=_apply,
)
