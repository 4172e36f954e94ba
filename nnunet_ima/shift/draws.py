"""Random draws that several disturbances share, as numbers that JSON keeps."""

from __future__ import annotations

import numpy as np
from numpy.random import Generator

from nnunet_ima.shift.scan import Scan


def draw_sign(rng: Generator) -> int:
    """1 or -1."""
    return int(rng.choice((-1, 1)))


def draw_factor(strength: float, rng: Generator) -> float:
    """A factor, or its inverse."""
    return float(strength ** draw_sign(rng))


def draw_seed(rng: Generator) -> int:
    """A seed for `numpy.random.default_rng`."""
    return int(rng.integers(2**32))


def draw_direction(scan: Scan, rng: Generator) -> list[float]:
    """A direction (z, y, x) of length 1; within the slice where there is only one."""
    direction = rng.normal(size=3)
    if scan.shape[scan.slice_axis] == 1:
        direction[scan.slice_axis] = 0
    unit: list[float] = (direction / np.linalg.norm(direction)).tolist()
    return unit


def draw_rotation(degrees: float, scan: Scan, rng: Generator) -> list[float]:
    """Angles about z, y and x, of which one is not 0; about the slice's normal where there is only one slice."""
    axis = scan.slice_axis if scan.shape[scan.slice_axis] == 1 else int(rng.integers(3))
    angle = degrees * draw_sign(rng)
    return [angle if other == axis else 0.0 for other in range(3)]
