"""A series of DICOM images as one volume, in the units of its modality (HU for CT)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import SimpleITK as sitk  # noqa: N813

from nnunet_ima.datasets.checks import count
from nnunet_ima.datasets.dicom import multiframe
from nnunet_ima.datasets.dicom.geometry import Grid, Plane, make_plane, regular_grid
from nnunet_ima.datasets.dicom.headers import (
    COLUMNS,
    FRAMES,
    IMAGE_TYPE,
    INSTANCE,
    ORIENTATION,
    PHOTOMETRIC,
    POSITION,
    ROWS,
    SAMPLES,
    SOP_CLASS,
    SPACING,
    DicomError,
    Header,
)
from nnunet_ima.datasets.dicom.standard import MULTIFRAME, syntax_name

Array = np.ndarray[Any, Any]


def read_series(headers: Sequence[Header]) -> sitk.Image:
    """Read a series; equal files in any order give equal images, bit by bit.

    Args:
        headers: of all images of the series, at least one.

    Returns:
        The volume, with rescale slope and intercept applied: int16 or int32 where all values are whole, else float32.
        The slices follow each other along the normal (row × column). It carries none of the files' other tags.

    Raises:
        DicomError: it is no regular volume of grey values, or cannot be decoded.
    """
    _check_kind(headers)
    if headers[0].text(SOP_CLASS) in MULTIFRAME:
        planes, slices = multiframe.read_frames(headers[0])
        grid = regular_grid(planes)
        return _image(slices[list(grid.order)], grid)
    grid = regular_grid([_plane(header) for header in headers])
    return _image(np.stack([_pixels(headers[index]) for index in grid.order]), grid)


def _check_kind(headers: Sequence[Header]) -> None:
    """Refuse what is no stack of single grey images."""
    instances = [header.text(INSTANCE) for header in headers]
    if copies := len(instances) - len(set(instances)):
        twice = [header.file for header in headers if instances.count(header.text(INSTANCE)) > 1]
        msg = f"{count(copies, 'image')} of {len(headers)} are copies of others (the same SOPInstanceUID); remove them"
        raise DicomError(msg, *twice)
    for header in headers:
        colours, samples = header.text(PHOTOMETRIC), header.text(SAMPLES) or "1"
        if colours != "MONOCHROME2" or samples != "1":
            msg = (
                f"an image does not hold plain grey values ({colours}, samples per pixel: {samples}); move it elsewhere"
            )
            raise DicomError(msg, header.file)
        if "LOCALIZER" in header.text(IMAGE_TYPE).upper().split("\\"):
            msg = "an image is a localizer (scout), made to plan a scan; move it elsewhere"
            raise DicomError(msg, header.file)
        multi = header.text(SOP_CLASS) in MULTIFRAME
        if multi and len(headers) > 1:
            msg = (
                f"the series holds {len(headers)} files, one of which is a multi-frame image "
                f"({MULTIFRAME[header.text(SOP_CLASS)]}), a volume in itself; give each a folder of its own"
            )
            raise DicomError(msg, header.file)
        if not multi and header.text(FRAMES) not in ("", "1"):
            msg = (
                f"a file holds {header.text(FRAMES)} frames without a place for each, which only enhanced CT, MR and "
                "PET have; export the series as single images"
            )
            raise DicomError(msg, header.file)


def _plane(header: Header) -> Plane:
    """Where an image lies."""
    try:
        size = (int(header.text(ROWS)), int(header.text(COLUMNS)))
        position, orientation = header.numbers(POSITION, 3), header.numbers(ORIENTATION, 6)
        return make_plane(position, orientation, header.numbers(SPACING, 2), size)
    except DicomError as error:
        raise DicomError(str(error), header.file) from error


def _pixels(header: Header) -> Array:
    """Values (rows, columns) of an image, rescaled by GDCM."""
    try:
        image = sitk.ReadImage(str(header.file), imageIO="GDCMImageIO")
    except RuntimeError as error:
        msg = f"an image cannot be decoded ({syntax_name(header.syntax)}); copy it again, or export it uncompressed"
        raise DicomError(msg, header.file) from error
    values: Array = sitk.GetArrayFromImage(image)[0]
    return values


def _image(values: Array, grid: Grid) -> sitk.Image:
    """Image of values (slices, rows, columns)."""
    if values.dtype.kind == "f" and (values == np.rint(values)).all() and np.abs(values).max() < 2**31:
        values = values.astype(np.int64)  # such as slopes written as 1.0
    if values.dtype.kind in "iub":
        small = np.iinfo(np.int16)
        fits = small.min <= values.min() and values.max() <= small.max
        image = sitk.GetImageFromArray(values.astype(np.int16 if fits else np.int32))
    else:
        image = sitk.GetImageFromArray(values.astype(np.float32))
    image.SetOrigin(grid.origin.tolist())
    image.SetSpacing(grid.spacing)
    image.SetDirection(grid.direction.ravel().tolist())
    return image
