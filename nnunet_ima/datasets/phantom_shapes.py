"""Shapes that phantoms are made of: an irregular organ with a core, blobs beside it, smooth random fields."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter

Array = NDArray[np.float64]
MAX_REDRAWS = 20


def voxel_grid(shape: tuple[int, ...], edge: Array) -> Array:
    """Return the position (D, *shape) of every voxel in mm, the volume's centre being the origin."""
    axes = [(np.arange(size) - (size - 1) / 2) * step for size, step in zip(shape, edge, strict=True)]
    return np.stack(np.meshgrid(*axes, indexing="ij"))


def ellipsoid(grid: Array, centre: Array, radii: Array) -> Array:
    """Return how far out every voxel lies, 1 being the surface."""
    columns = (slice(None), *[None] * (grid.ndim - 1))
    distance: Array = np.sqrt((((grid - centre[columns]) / radii[columns]) ** 2).sum(axis=0))
    return distance


def smooth_field(rng: np.random.Generator, shape: tuple[int, ...], edge: Array, length: Array | float) -> Array:
    """Return a smooth random field with mean 0 and standard deviation 1; `length` is its correlation in mm."""
    sigma = np.broadcast_to(length, len(shape)) / edge
    field: Array = gaussian_filter(rng.normal(size=shape), sigma, mode="reflect")
    field = field - field.mean()
    return field / max(float(field.std()), 1e-12)


def draw_organ(rng: np.random.Generator, grid: Array, edge: Array) -> NDArray[np.uint8]:
    """Return the label map of an organ of random place, size and outline (1) around a core (2).

    Raises:
        ValueError: the grid leaves no room for both structures.
    """
    for _ in range(MAX_REDRAWS):
        label = _draw_once(rng, grid, edge)
        if min(np.count_nonzero(label == value) for value in (1, 2)) >= 8:
            return label
    size = "×".join(map(str, grid.shape[1:]))
    msg = f"a phantom of {size} voxels has no room for two structures; make it larger"
    raise ValueError(msg)


def draw_blobs(rng: np.random.Generator, grid: Array, extent: Array, free: NDArray[np.bool_]) -> Array:
    """Return the relative signal that small blobs in the tissue add; they look like the structures but are not."""
    signal = np.zeros(grid.shape[1:])
    for _ in range(rng.integers(2, 6)):
        centre = extent * rng.uniform(-0.4, 0.4, len(extent))
        blob = ellipsoid(grid, centre, extent * rng.uniform(0.03, 0.07, len(extent))) < 1
        signal[blob & free] = rng.uniform(-0.3, 0.5)
    return signal


def _draw_once(rng: np.random.Generator, grid: Array, edge: Array) -> NDArray[np.uint8]:
    shape = grid.shape[1:]
    extent = edge * shape
    axes = len(shape)
    centre = extent * rng.uniform(-0.1, 0.1, axes)
    radii = extent * rng.uniform(0.22, 0.32, axes)
    direction = rng.normal(size=axes)
    core_centre = centre + 0.25 * radii * direction / np.linalg.norm(direction)
    core_radii = radii * rng.uniform(0.55, 0.7, axes)
    organ = ellipsoid(grid, centre, radii) + 0.12 * smooth_field(rng, shape, edge, extent / 8)
    core = ellipsoid(grid, core_centre, core_radii) + 0.12 * smooth_field(rng, shape, edge, extent / 10)
    label = (organ < 1).astype(np.uint8)
    label[(core < 1) & (organ < 0.95)] = 2
    return label
