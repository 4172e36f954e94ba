"""TorchIO's transforms on arrays (C, Z, Y, X), with explicit parameters and no trace in PyTorch's random numbers."""

from __future__ import annotations

from collections.abc import Sequence
from types import ModuleType
from typing import Any

import numpy as np
import torch

from nnunet_ima.shift.scan import Array


def torchio() -> ModuleType:
    """TorchIO, which takes seconds to load.

    Raises:
        ValueError: it is not installed.
    """
    try:
        import torchio as tio
    except ModuleNotFoundError as error:
        msg = "this disturbance needs TorchIO, which is not installed: pip install 'nnunet-ima[shift]'"
        raise ValueError(msg) from error
    return tio


def through_torchio(transform: Any, channels: Array, spacing: Sequence[float]) -> Array:
    """Transform an image in a frame of its own: its middle is the origin, its axes are those of the array.

    Args:
        transform: one of TorchIO's that draws nothing; its axes x, y, z are the last, middle and first of the array's.
        channels: (C, Z, Y, X).
        spacing: distance of voxels along z, y and x, in mm.
    """
    voxels = channels.transpose(0, 3, 2, 1).copy()
    affine = np.diag([*reversed(spacing), 1.0])
    affine[:3, 3] = -affine[:3, :3] @ (np.array(voxels.shape[1:]) - 1) / 2
    image = torchio().ScalarImage(tensor=torch.from_numpy(voxels), affine=affine)
    with torch.random.fork_rng(devices=[]):  # TorchIO draws whether it is to act even where that is certain
        values: Array = transform(image).data.numpy()
    return values.transpose(0, 3, 2, 1)
