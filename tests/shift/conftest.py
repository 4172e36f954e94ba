"""Small scans to disturb: phantoms of both modalities, and what makes scans hard."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from nnunet_ima.datasets.ct_phantom import ct_phantom_case
from nnunet_ima.datasets.phantom import phantom_case
from nnunet_ima.shift import Disturbance, Scan

Array = np.ndarray[Any, Any]
MakeScan = Callable[..., Scan]

# axes that run left, posterior and down, and an origin far away: nothing may depend on where a scanner counts from
DIRECTIONS, ORIGIN = (-1.0, -1.0, 1.0), (90.0, 120.0, -340.0)


def _affine(spacing: tuple[float, ...]) -> Array:
    affine = np.diag([*np.multiply(spacing, DIRECTIONS), 1.0])
    affine[:3, 3] = ORIGIN
    return affine


@pytest.fixture(scope="session")
def make_scan() -> MakeScan:
    """A function that makes a phantom of a modality, by default two MR channels or one of CT, with thicker slices."""

    def make(modality: str, channels: int = 2, shape: tuple[int, ...] = (24, 20, 12), thickness: float = 4.0) -> Scan:
        rng = np.random.default_rng(0)
        if modality == "CT":
            spacing = (8.0, 8.0, 2 * thickness)
            image, label = ct_phantom_case(rng, shape, spacing)
            image = np.repeat(image, channels, 0)
        else:
            spacing = (2.0, 2.4, thickness)
            image, label = phantom_case(rng, shape, spacing, channels, noise=0.02)
        voxels = np.ascontiguousarray(image.transpose(0, 3, 2, 1))
        return Scan(voxels, np.ascontiguousarray(label.T), _affine(spacing), modality)

    return make


@pytest.fixture(scope="session")
def scan_for(make_scan: MakeScan) -> Callable[[Disturbance], Scan]:
    """A function that makes a scan which a disturbance happens to."""
    made = {"CT": make_scan("CT", channels=1), "MR": make_scan("MR")}
    return lambda disturbance: made["CT" if disturbance.modalities == ("CT",) else "MR"]


@pytest.fixture(scope="session")
def scan_of() -> Callable[..., Scan]:
    """A function that wraps an image (Z, Y, X) or (C, Z, Y, X), its label map and its spacing along z, y and x."""

    def wrap(
        image: Array, modality: str, spacing: tuple[float, float, float] = (1, 1, 1), label: Array | None = None
    ) -> Scan:
        channels = np.asarray(image, np.float32)
        channels = channels[None] if channels.ndim == 3 else channels
        label = np.zeros(channels.shape[1:], np.uint8) if label is None else label
        return Scan(channels, label, _affine(spacing[::-1]), modality)

    return wrap
