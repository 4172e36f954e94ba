"""Enhanced multi-frame images, whose geometry and scale stand with each frame, where SimpleITK does not show them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from nnunet_ima.datasets.dicom.geometry import Plane, make_plane
from nnunet_ima.datasets.dicom.headers import SOP_CLASS, DicomError, Header, undecodable
from nnunet_ima.datasets.dicom.standard import MULTIFRAME

INSTALL = 'pip install "nnunet-ima[dicom]"'


def read_frames(header: Header) -> tuple[list[Plane], np.ndarray[Any, Any]]:
    """Read an enhanced image.

    Returns:
        The place of each frame, and the frames (N, rows, columns), rescaled, as float64; in the file's order.

    Raises:
        DicomError: pydicom is missing, a frame has no place, or the pixels cannot be decoded.
    """
    try:
        import pydicom
    except ImportError as error:
        kind = MULTIFRAME[header.text(SOP_CLASS)]
        msg = f"the series is a multi-frame image ({kind}), which needs highdicom: {INSTALL}"
        raise DicomError(msg, header.file) from error
    try:
        data = pydicom.dcmread(header.file)
        groups = list(_groups(data))
        planes = [_plane(group, (data.Rows, data.Columns)) for group in groups]
        scales = np.array([_scale(group) for group in groups])
    except DicomError as error:
        raise DicomError(str(error), header.file) from error
    except Exception as error:  # whatever a group that is missing or odd leads to
        msg = "a multi-frame image does not tell the place of each frame; export the series as single images"
        raise DicomError(msg, header.file) from error
    try:
        frames = data.pixel_array.reshape(len(planes), data.Rows, data.Columns)
    except Exception as error:  # of pydicom and of any of its decoders
        raise undecodable(header.syntax, header.file) from error
    return planes, frames * scales[:, 0, None, None] + scales[:, 1, None, None]


def _groups(data: Any) -> Iterator[dict[str, Any]]:
    """Functional groups of each frame: its own, and those that all share."""
    shared = {element.keyword: element.value[0] for element in data.SharedFunctionalGroupsSequence[0]}
    for frame in data.PerFrameFunctionalGroupsSequence:
        yield shared | {element.keyword: element.value[0] for element in frame if element.VR == "SQ" and element.value}


def _plane(group: dict[str, Any], size: tuple[int, int]) -> Plane:
    position = group["PlanePositionSequence"].ImagePositionPatient
    orientation = group["PlaneOrientationSequence"].ImageOrientationPatient
    return make_plane(position, orientation, group["PixelMeasuresSequence"].PixelSpacing, size)


def _scale(group: dict[str, Any]) -> tuple[float, float]:
    """Slope and intercept."""
    values = group.get("PixelValueTransformationSequence")
    return (float(values.RescaleSlope), float(values.RescaleIntercept)) if values is not None else (1.0, 0.0)
