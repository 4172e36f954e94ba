"""A smaller field of view: slabs are cut off at the ends of every axis, of the label map, too."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from numpy.random import Generator

from nnunet_ima.shift.disturbance import Disturbance, Parameters
from nnunet_ima.shift.grid import sub_grid
from nnunet_ima.shift.scan import Scan


def _draw(severity: float, scan: Scan, rng: Generator) -> Parameters:
    """Share out what is cut off among both ends of an axis, at random; half of the axis stays at least."""
    cut = [min(round(severity / edge), size // 2) for edge, size in zip(scan.spacing, scan.shape, strict=True)]
    low = [round(voxels * rng.uniform()) for voxels in cut]
    return {"low": low, "high": [voxels - first for voxels, first in zip(cut, low, strict=True)]}


def _apply(scan: Scan, parameters: Mapping[str, Any]) -> Scan:
    low, high = parameters["low"], parameters["high"]
    box = tuple(slice(first, size - last) for first, last, size in zip(low, high, scan.shape, strict=True))
    return replace(
        scan,
        channels=scan.channels[(slice(None), *box)].copy(),
        label=scan.label[box].copy(),
        affine=sub_grid(scan.affine, low),
    )


FIELD_OF_VIEW = Disturbance(
    name="field-of-view",
    modalities=("any",),
    changes="geometry",
    severities=(5, 10, 15, 20, 30),
    unit="mm cut off each axis",
    reference="calibrated: from a tight planning of the field to one that cuts organs",
    drawing=_draw,
    applying=_apply,
)
