"""A scan in raw image space: what disturbances act on."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]

MODALITIES = ("MR", "CT", "any")
CLEARLY_THICKER = 1.5  # times the next distance of voxels: then slices lie across this axis


@dataclass(frozen=True, eq=False)
class Scan:
    """An image and its label map as files hold them, before any preprocessing.

    Attributes:
        channels: (C, Z, Y, X), float32, in raw units: HU for CT, the scanner's own for MR.
        label: (Z, Y, X), integer.
        affine: (4, 4), voxels (x, y, z) to mm towards right, anterior, superior.
        modality: "MR", "CT", or "any" where neither is known.

    Raises:
        ValueError: shapes, number types or modality are not these, a voxel is not finite, or the affine has no inverse.
    """

    channels: Array
    label: Array
    affine: Array
    modality: str = "any"

    def __post_init__(self) -> None:
        """Refuse what no disturbance could work with."""
        checks = (
            (self.channels.ndim == 4, f"channels must be (C, Z, Y, X), got shape {self.channels.shape}"),
            (self.channels.dtype == np.float32, f"channels must be float32, got {self.channels.dtype}"),
            (self.channels.size > 0, f"channels hold no voxel: shape {self.channels.shape}"),
            (
                self.label.shape == self.channels.shape[1:],
                f"a label map of shape {self.label.shape} does not fit channels of shape {self.channels.shape}",
            ),
            (self.label.dtype.kind in "iu", f"the label map must hold integers, got {self.label.dtype}"),
            (self.modality in MODALITIES, f"modality must be one of {', '.join(MODALITIES)}, got {self.modality!r}"),
            (
                self.affine.shape == (4, 4) and abs(np.linalg.det(self.affine)) > 0,
                f"the affine must be (4, 4) and have an inverse, got {self.affine.tolist()}",
            ),
        )
        for passed, msg in checks:
            if not passed:
                raise ValueError(msg)
        if not np.isfinite(self.channels).all():
            msg = f"the image holds {np.count_nonzero(~np.isfinite(self.channels))} voxels that are not finite"
            raise ValueError(msg)

    @property
    def shape(self) -> tuple[int, int, int]:
        """Voxels along z, y and x."""
        depth, height, width = self.label.shape
        return depth, height, width

    @property
    def spacing(self) -> tuple[float, float, float]:
        """Distance of voxels along z, y and x, in mm."""
        x, y, z = np.linalg.norm(self.affine[:3, :3], axis=0).tolist()
        return z, y, x

    @property
    def slice_axis(self) -> int:
        """The spatial axis (0 for z) across which slices lie: a single slice, else clearly thicker ones, else z."""
        if 1 in self.shape:
            return self.shape.index(1)
        _, second, largest = sorted(self.spacing)
        return self.spacing.index(largest) if largest > CLEARLY_THICKER * second else 0

    @property
    def in_plane(self) -> tuple[int, int]:
        """The two spatial axes along which a slice lies."""
        first, second = (axis for axis in range(3) if axis != self.slice_axis)
        return first, second

    def with_channels(self, channels: Array) -> Scan:
        """The same with other intensities."""
        return replace(self, channels=np.ascontiguousarray(channels, np.float32))
