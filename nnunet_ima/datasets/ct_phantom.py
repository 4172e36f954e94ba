"""A CT phantom: a trunk in Hounsfield units with an organ, a lesion in it, a spine and a rim of fat."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter

from nnunet_ima.datasets.phantom_shapes import Array, draw_blobs, draw_organ, ellipsoid, smooth_field, voxel_grid

AIR, FAT, TISSUE, BONE = -1000.0, -100.0, 40.0, 700.0  # HU
ORGAN, LESION = 110.0, 65.0  # an enhanced organ (label 1) and a lesion (label 2), which takes up less
BLOBS = 80.0  # HU of a relative signal of 1
TEXTURE = 5.0  # HU, standard deviation of the tissue's own variation


def ct_phantom_case(
    rng: np.random.Generator, shape: Sequence[int], spacing: Sequence[float], noise: float = 10.0
) -> tuple[NDArray[np.float32], NDArray[np.uint8]]:
    """Draw one phantom; organ and lesion have the shapes of `phantom.phantom_case`.

    Args:
        rng: source of all randomness.
        shape: voxels along x, y and z; the trunk runs along z, its back is at high y.
        spacing: voxel edge per axis, in mm.
        noise: standard deviation of the noise, HU.

    Returns:
        The image (1, *shape) in HU and the label map (*shape).

    Raises:
        ValueError: the shape leaves no room for organ and lesion.
    """
    size, edge = tuple(shape), np.asarray(spacing, dtype=float)
    grid, extent = voxel_grid(size, edge), edge * size
    label = draw_organ(rng, grid, edge)
    plane, axes = grid[:2], extent[:2]
    depth = ellipsoid(plane, np.zeros(2), axes * rng.uniform((0.46, 0.40), (0.49, 0.44)))
    spine = ellipsoid(plane, axes * (0.0, 0.31), axes * rng.uniform(0.05, 0.07)) < 1
    hounsfield = np.select([depth > 1, depth > 0.92, spine], [AIR, FAT, BONE], TISSUE)
    hounsfield += BLOBS * draw_blobs(rng, grid, extent, (hounsfield == TISSUE) & (label == 0))
    hounsfield = np.where(label > 0, np.array([TISSUE, ORGAN, LESION])[label], hounsfield)
    return _acquire(rng, hounsfield, edge, noise)[None].astype(np.float32), label


def _acquire(rng: np.random.Generator, hounsfield: Array, edge: Array, noise: float) -> Array:
    """Add what tissue and scanner add: texture, partial volume, noise."""
    textured = hounsfield + TEXTURE * smooth_field(rng, hounsfield.shape, edge, float(edge.min())) * (hounsfield > AIR)
    acquired: Array = gaussian_filter(textured, 0.5) + rng.normal(scale=noise, size=hounsfield.shape)
    return acquired
