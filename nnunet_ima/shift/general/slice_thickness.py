"""Thicker slices: fewer of them, each the mean over its thickness; the label map follows, and so does the affine."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.random import Generator

from nnunet_ima.shift.disturbance import Disturbance, Parameters
from nnunet_ima.shift.grid import sub_grid
from nnunet_ima.shift.labels import move_label
from nnunet_ima.shift.scan import Array, Scan


def _draw(severity: float, scan: Scan, rng: Generator) -> Parameters:
    return {"axis": scan.slice_axis, "thickness": scan.spacing[scan.slice_axis] + severity}


def _apply(scan: Scan, parameters: Mapping[str, Any]) -> Scan:
    axis = parameters["axis"]
    step = parameters["thickness"] / scan.spacing[axis]
    weights, begin = _overlaps(scan.shape[axis], step)

    def average(image: Array) -> Array:
        means: Array = np.moveaxis(np.tensordot(weights, image, (1, axis + 1)), 0, axis + 1)
        return means

    steps, begins = [1.0, 1.0, 1.0], [0.0, 0.0, 0.0]
    steps[axis], begins[axis] = step, begin
    return replace(
        scan,
        channels=average(scan.channels),
        label=move_label(scan.label, average),
        affine=sub_grid(scan.affine, begins, steps),
    )


def _overlaps(slices: int, step: float) -> tuple[Array, float]:
    """What each thick slice takes from each thin one.

    Args:
        slices: number of thin slices.
        step: thickness of thick slices, in thin ones.

    Returns:
        Weights (thick, thin), each row's sum 1, and the centre of the first thick slice, in thin slices. The stack of
        thick slices is centred on the volume; where its ends reach beyond, only what is inside counts.
    """
    thick = max(1, round(slices / step))
    edges = (slices - thick * step) / 2 + step * np.arange(thick + 1)
    borders = np.arange(slices + 1)
    low = np.maximum(edges[:-1, None], borders[None, :-1])
    high = np.minimum(edges[1:, None], borders[None, 1:])
    weights = np.clip(high - low, 0, None)
    return (weights / weights.sum(1, keepdims=True)).astype(np.float32), float(edges[:2].mean() - 0.5)


def _lacking(scan: Scan) -> str:
    return "the scan has a single slice" if scan.shape[scan.slice_axis] == 1 else ""


SLICE_THICKNESS = Disturbance(
    name="slice-thickness",
    modalities=("any",),
    changes="geometry",
    severities=(1, 2, 3, 5, 7),
    unit="mm thicker",
    reference="calibrated: from 1 mm to the 8 mm of fast protocols; ROOD-MRI (Boone et al. 2023): factors 2.8 to 10",
    drawing=_draw,
    applying=_apply,
    lacking=_lacking,
)
