"""Cupping by beam hardening: Hounsfield units sink towards the middle of the body, as a parabola over its depth."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.random import Generator
from scipy.ndimage import distance_transform_edt

from nnunet_ima.shift.ct.slices import as_scan, find_body, lacks_hounsfield, pixel_edges, slices_first
from nnunet_ima.shift.disturbance import Disturbance, Parameters
from nnunet_ima.shift.scan import Array, Scan
from nnunet_ima.shift.spectrum import gaussian

SMOOTHING = 0.25  # of the largest depth, full width at half maximum: no crease where the body's sides meet


def _draw(severity: float, scan: Scan, rng: Generator) -> Parameters:
    return {"hounsfield": severity}


def _apply(scan: Scan, parameters: Mapping[str, Any]) -> Scan:
    slices, edges = slices_first(scan), pixel_edges(scan)
    cups = cup_shape(slices[0], edges)
    return as_scan(slices - np.float32(parameters["hounsfield"]) * cups, scan)


def cup_shape(slices: Array, edges: tuple[float, float]) -> Array:
    """Depth of the cup (slices, height, width): 0 outside of the body, 1 where it is deepest; all 0 without a body."""
    bodies = np.stack([find_body(image) for image in slices])
    # the border of the image counts as the body's where it is cut off
    padded = np.pad(bodies, ((0, 0), (1, 1), (1, 1)))
    depth = np.stack([distance_transform_edt(body, edges) for body in padded])[:, 1:-1, 1:-1]
    largest = float(depth.max())
    if not largest:
        return np.zeros(slices.shape, np.float32)
    inwards = depth / largest
    cup = gaussian((2 * inwards - inwards**2)[None], [0, *(SMOOTHING * largest / edge for edge in edges)])[0] * bodies
    shape: Array = (cup / cup.max()).astype(np.float32)
    return shape


CUPPING = Disturbance(
    name="cupping",
    modalities=("CT",),
    changes="intensity",
    severities=(10, 20, 40, 60, 100),
    unit="HU, lower in the middle than at the edge",
    reference="acceptance tests allow 5 HU between middle and edge of water; beyond that, calibrated",
    drawing=_draw,
    applying=_apply,
    lacking=lacks_hounsfield,
)
