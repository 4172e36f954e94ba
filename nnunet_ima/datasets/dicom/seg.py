"""DICOM SEG as label maps, read through highdicom."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK as sitk  # noqa: N813

from nnunet_ima.datasets.dicom.geometry import EVEN
from nnunet_ima.datasets.dicom.headers import DicomError, read_meta
from nnunet_ima.datasets.dicom.multiframe import INSTALL
from nnunet_ima.datasets.dicom.names import tells_patient
from nnunet_ima.datasets.dicom.standard import SEGMENTATIONS, no_image

OFF_GRID = 0.1  # largest distance of a segment's voxel from one of the image, as a share of a voxel

Array = np.ndarray[Any, Any]


def referenced_series(file: Path) -> frozenset[str]:
    """SeriesInstanceUIDs of the images that a SEG was made on.

    Raises:
        ValueError: highdicom is missing, or the file is no SEG that can be read.
    """
    found = _open(file)
    return frozenset(str(entry.SeriesInstanceUID) for entry in found.get("ReferencedSeriesSequence", ()))


def read_seg(
    file: Path, image: sitk.Image, labels: Mapping[str, int], words: frozenset[str] = frozenset()
) -> sitk.Image:
    """Read a SEG as a label map on the voxels of its image.

    Args:
        file: the SEG.
        image: what `series.read_series` returned for the images that it was made on.
        labels: the model's, by name; segments belong to the label of the same name, in whatever case.
        words: of the patient; a segment's name that holds one is not told.

    Returns:
        The label map, with the geometry of the image; 0 where there is no segment.

    Raises:
        DicomError: a segment has another name, segments of different labels overlap, the SEG holds fractions, lies on
            other voxels than the image, or cannot be decoded.
        ValueError: see `referenced_series`.
    """
    found = _open(file)
    if found.SegmentationType == "FRACTIONAL":
        msg = "the DICOM SEG holds fractions (FRACTIONAL), from which no label follows; store it as BINARY"
        raise DicomError(msg, file)
    label_map = np.zeros(sitk.GetArrayViewFromImage(image).shape, np.uint8 if max(labels.values()) < 256 else np.uint16)
    for number, value in _values(found, labels, words, file).items():
        try:
            volume = found.get_volume(segment_numbers=[number], rtol=EVEN)
        except Exception as error:  # of highdicom, of pydicom and of any of its decoders
            msg = "the DICOM SEG cannot be decoded, or its frames form no regular volume; store it as NIfTI"
            raise DicomError(msg, file) from error
        place = _places(volume, image, file)
        if (taken := label_map[place])[(taken != 0) & (taken != value)].size:
            msg = "segments of different labels overlap in the DICOM SEG; give each voxel to one of them"
            raise DicomError(msg, file)
        label_map[place] = value
    written = sitk.GetImageFromArray(label_map)
    written.CopyInformation(image)
    return written


def _open(file: Path) -> Any:
    try:
        kind = read_meta(file).sop_class
    except DicomError as error:
        raise ValueError(f"{file}: {error}") from error
    if kind not in SEGMENTATIONS:
        msg = f"{file} is no label but {no_image(kind) or 'an image'}; give DICOM SEG, or files of the model's format"
        raise ValueError(msg)
    try:
        import highdicom
    except ImportError as error:
        msg = f"{file} is a DICOM SEG, which is read through highdicom: {INSTALL}"
        raise ValueError(msg) from error
    try:
        return highdicom.seg.segread(file)
    except Exception as error:  # a damaged file can raise anything
        msg = f"{file} is a DICOM SEG that cannot be read; copy it again, or store it as NIfTI"
        raise ValueError(msg) from error


def _values(found: Any, labels: Mapping[str, int], words: frozenset[str], file: Path) -> dict[int, int]:
    """The model's label of each segment."""
    known = {name.strip().casefold(): value for name, value in labels.items()}
    names = {int(number): str(found.get_segment_description(number).segment_label) for number in found.segment_numbers}
    if any(name.strip().casefold() not in known for name in names.values()):
        shown = ["(hidden)" if tells_patient(name, words) else name for name in names.values()]
        msg = (
            f"the segments of the DICOM SEG ({', '.join(shown)}) are not named as the model's labels "
            f"({', '.join(labels)}); rename them"
        )
        raise DicomError(msg, file)
    return {number: known[name.strip().casefold()] for number, name in names.items()}


def _places(volume: Any, image: sitk.Image, file: Path) -> tuple[Array, ...]:
    """Indices (slices, rows, columns) into the image of the voxels that belong to a segment."""
    affine = np.eye(4)
    affine[:3, :3] = np.reshape(image.GetDirection(), (3, 3)) * image.GetSpacing()
    affine[:3, 3] = image.GetOrigin()
    shape = np.array(image.GetSize())
    to_image = np.linalg.inv(affine) @ volume.affine
    inside = np.argwhere(volume.array.reshape(volume.spatial_shape))
    places = (to_image[:3, :3] @ inside.T).T + to_image[:3, 3]
    found = np.rint(places).astype(int)
    axes = np.abs(to_image[:3, :3])[:, np.array(volume.spatial_shape) > 1]  # a single slice has no step
    if (np.abs(axes.max(0) - 1) > OFF_GRID).any() or (inside.size and np.abs(places - found).max() > OFF_GRID):
        msg = "the DICOM SEG lies on other voxels than its image; resample it to them, and store it as NIfTI"
        raise DicomError(msg, file)
    if ((found < 0) | (found >= shape)).any():
        msg = "the DICOM SEG reaches beyond its image; are slices of the image missing?"
        raise DicomError(msg, file)
    return tuple(found[:, ::-1].T)
