"""Other orders and directions of the axes of an array, and the affine that goes with them."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.random import Generator

from nnunet_ima.shift.disturbance import Parameters
from nnunet_ima.shift.scan import Array, Scan

CHANGES = (1, 2, 3, 4, 5)  # of the axes: up to three are flipped, then up to two pairs are interchanged


def draw_orientation(changes: int, scan: Scan, rng: Generator) -> Parameters:
    """Draw which axes are flipped, and how they are ordered then; a single slice stays across the same axis.

    Args:
        changes: how many, one of `CHANGES`; fewer where a single slice leaves no room for them.
        scan: what is to be turned.
        rng: source of all randomness.
    """
    free = [axis for axis in range(3) if scan.shape[axis] > 1]
    flipped = sorted(rng.permutation(free)[:changes].tolist())
    order = [0, 1, 2]
    interchanged = min(changes - len(flipped), len(free) - 1)
    if interchanged > 0:
        # the second pair shares one axis with the first, so that it does not take it back
        for first, second in list(pairwise(rng.permutation(free).tolist()))[:interchanged]:
            order[first], order[second] = order[second], order[first]
    return {"flipped": flipped, "order": order}


def turn(array: Array, parameters: Mapping[str, Any]) -> Array:
    """Flip axes of (..., Z, Y, X), then order them anew."""
    leading = array.ndim - 3
    flipped = np.flip(array, tuple(leading + axis for axis in parameters["flipped"]))
    turned = flipped.transpose(*range(leading), *[leading + axis for axis in parameters["order"]])
    return np.ascontiguousarray(turned)


def turned_affine(scan: Scan, parameters: Mapping[str, Any]) -> Array:
    """Affine of what `turn` returns: every voxel stays where it is in the world."""
    old_of_new = np.eye(4)
    old_of_new[:3, :3] = 0
    for place, axis in enumerate(parameters["order"]):  # of z, y, x, while the affine counts x, y, z
        flipped = axis in parameters["flipped"]
        old_of_new[2 - axis, 2 - place] = -1 if flipped else 1
        old_of_new[2 - axis, 3] = scan.shape[axis] - 1 if flipped else 0
    return scan.affine @ old_of_new
