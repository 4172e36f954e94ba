"""Affines of grids that were cut out of another one, or are coarser."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from nnunet_ima.shift.scan import Array


def sub_grid(affine: Array, begin: Sequence[float], step: Sequence[float] = (1, 1, 1)) -> Array:
    """Affine of a grid whose voxels have other edges, the world staying where it is.

    Args:
        affine: (4, 4) of the old grid, for voxels (x, y, z).
        begin: where the first voxel's centre lies on the old grid: its z, y and x in voxels.
        step: edge of a new voxel along z, y and x, in old ones.
    """
    within = np.diag([*reversed(step), 1.0])
    within[:3, 3] = list(reversed(begin))
    return affine @ within
