"""Streaks of a metal rod that runs through all slices, as in a spine after surgery.

Bright and dark rays leave the rod in all directions and fade as 1 / distance; they change slowly from slice to slice.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.random import Generator
from scipy.ndimage import gaussian_filter

from nnunet_ima.shift.ct.slices import as_scan, find_body, lacks_hounsfield, pixel_edges, slices_first
from nnunet_ima.shift.disturbance import Disturbance, Parameters
from nnunet_ima.shift.draws import draw_seed
from nnunet_ima.shift.scan import Array, Scan

ROD = 3.0  # mm, its radius
METAL, AIR = 3071.0, -1024.0  # HU: what 12 bits hold
QUOTED_AT = 20.0  # mm from the rod
ANGLES = 720
WIDTH, LENGTH = 3.0, 10.0  # of a streak: σ of its angle in steps of half a degree; σ across slices in mm


def _draw(severity: float, scan: Scan, rng: Generator) -> Parameters:
    """Put the rod into the body, anywhere in the slice that shows most of it."""
    bodies = [find_body(image) for image in slices_first(scan)[0]]
    body = max(bodies, key=np.count_nonzero)
    places = np.argwhere(body if body.any() else np.ones_like(body))
    return {"hounsfield": severity, "place": rng.choice(places).tolist(), "seed": draw_seed(rng)}


def _apply(scan: Scan, parameters: Mapping[str, Any]) -> Scan:
    slices = slices_first(scan)
    edges = pixel_edges(scan)
    down, right = (
        (np.arange(size) - place) * edge
        for size, place, edge in zip(slices.shape[2:], parameters["place"], edges, strict=True)
    )
    distance = np.hypot(down[:, None], right)
    angle = np.arctan2(down[:, None], right) / (2 * np.pi) * ANGLES
    rays = _rays(slices.shape[1], scan.spacing[scan.slice_axis], parameters["seed"])
    streaks = rays[:, np.rint(angle).astype(int) % ANGLES] * (QUOTED_AT / np.maximum(distance, ROD))
    disturbed = np.maximum(slices + parameters["hounsfield"] * streaks, np.minimum(slices, AIR))
    return as_scan(np.where(distance < ROD, METAL, disturbed), scan)


def _rays(slices: int, thickness: float, seed: int) -> Array:
    """Strength (slices, ANGLES) of the rays: mean 0, root mean square 1."""
    white = np.random.default_rng(seed).standard_normal((slices, ANGLES))
    rays = gaussian_filter(white, (LENGTH / thickness, WIDTH), mode=("nearest", "wrap"))
    rays -= rays.mean()
    scaled: Array = rays / np.sqrt((rays**2).mean())
    return scaled


STREAKS = Disturbance(
    name="streaks",
    modalities=("CT",),
    changes="intensity",
    severities=(20, 50, 100, 200, 400),
    unit="HU, root mean square 20 mm from the metal",
    reference="calibrated: from barely above noise to streaks that hide soft tissue",
    drawing=_draw,
    applying=_apply,
    lacking=lacks_hounsfield,
)
