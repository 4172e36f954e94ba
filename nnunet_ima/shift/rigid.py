"""Rigid movements of what a scan shows, within its grid (TorchIO); the label map moves alike."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from nnunet_ima.shift.labels import move_label
from nnunet_ima.shift.scan import Array, Scan
from nnunet_ima.shift.through_torchio import through_torchio, torchio


def move_rigidly(scan: Scan, degrees: Sequence[float], millimetres: Sequence[float]) -> Scan:
    """Rotate about the scan's middle, then shift; what comes from outside is each channel's smallest value.

    Args:
        scan: what moves; its grid stays.
        degrees: rotation about z, y and x of the grid.
        millimetres: shift along z, y and x of the grid.
    """

    def move(image: Array, outside: str | float) -> Array:
        transform = torchio().transforms.Affine(
            scales=(1, 1, 1),
            degrees=tuple(reversed(degrees)),
            translation=tuple(reversed(millimetres)),
            default_pad_value=outside,
            image_interpolation="linear",
        )
        return through_torchio(transform, image, scan.spacing)

    label = move_label(scan.label, lambda mask: move(mask, 0.0))
    return replace(scan.with_channels(move(scan.channels, "minimum")), label=label)
