"""Scans from files that SimpleITK reads, and back into files: one for each channel, as nnU-Net wants them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import SimpleITK as sitk  # noqa: N813

from nnunet_ima.datasets.checks import last_line
from nnunet_ima.image_files import check_whole, image_errors
from nnunet_ima.shift.scan import Array, Scan

RAS_AND_LPS = np.diag([-1.0, -1.0, 1.0, 1.0])  # ITK's axes run left and posterior; this turns one into the other


def read_scan(images: Sequence[Path], label: Path | None, modality: str) -> Scan:
    """Read an image and its label map.

    Args:
        images: a file for each channel, all on one grid.
        label: file of the label map; None: there is none, all is background.
        modality: "MR", "CT" or "any".

    Raises:
        FileNotFoundError: a file is missing.
        ValueError: the files do not fit each other, or hold no volume.
    """
    read = [_read(file) for file in images]
    channels, affines = zip(*read, strict=True)
    labels, affine = (np.zeros(channels[0].shape, np.int16), affines[0]) if label is None else _read(label)
    for file, voxels, grid in zip([*images, label], [*channels, labels], [*affines, affine], strict=True):
        if voxels.shape != channels[0].shape or not np.allclose(grid, affines[0], atol=1e-3):
            msg = f"{file} lies on another grid than {images[0]}: shapes {voxels.shape} and {channels[0].shape}"
            raise ValueError(msg)
    return Scan(np.stack(channels).astype(np.float32), np.rint(labels).astype(np.int16), affines[0], modality)


def write_scan(scan: Scan, images: Sequence[Path], label: Path) -> None:
    """Write channels (float32) and label map (int16), with the scan's grid.

    Args:
        scan: what to write.
        images: a file for each channel.
        label: file of the label map.

    Raises:
        OSError: a file cannot be written, or not to its end.
    """
    for voxels, file in zip([*scan.channels, scan.label.astype(np.int16)], [*images, label], strict=True):
        image = sitk.GetImageFromArray(voxels)
        axes = RAS_AND_LPS @ scan.affine
        edges = np.linalg.norm(axes[:3, :3], axis=0)
        image.SetSpacing(edges.tolist())
        image.SetDirection((axes[:3, :3] / edges).ravel().tolist())
        image.SetOrigin(axes[:3, 3].tolist())
        with image_errors(file):
            sitk.WriteImage(image, str(file), True)
            check_whole(file)


def _read(file: Path) -> tuple[Array, Array]:
    """Voxels (Z, Y, X) and affine (4, 4) towards right, anterior, superior; a 2D image is a single slice."""
    if not file.is_file():
        msg = f"{file} does not exist"
        raise FileNotFoundError(msg)
    try:
        image = sitk.ReadImage(str(file))
    except RuntimeError as error:  # SimpleITK's only kind of error
        msg = f"{file} cannot be read: {last_line(error)}"
        raise ValueError(msg) from error
    if image.GetDimension() == 2:
        image = sitk.JoinSeries(image)
    voxels: Array = sitk.GetArrayFromImage(image)
    if voxels.ndim != 3:
        msg = f"{file} must hold one volume, each channel in a file of its own; its array has shape {voxels.shape}"
        raise ValueError(msg)
    affine = np.eye(4)
    affine[:3, :3] = np.reshape(image.GetDirection(), (3, 3)) * image.GetSpacing()
    affine[:3, 3] = image.GetOrigin()
    return voxels, RAS_AND_LPS @ affine
