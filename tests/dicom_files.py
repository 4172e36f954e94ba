"""Writes DICOM files with pydicom and highdicom, without the code that reads them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import highdicom
import nibabel as nib
import numpy as np
import pydicom
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.sr.codedict import codes
from pydicom.uid import (
    CTImageStorage,
    EnhancedCTImageStorage,
    EnhancedSRStorage,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    generate_uid,
)

Array = np.ndarray[Any, Any]
RAS = (-1.0, 0.0, 0.0, 0.0, -1.0, 0.0)  # rows and columns along the axes of a NIfTI file with a diagonal affine
OBLIQUE = (0.8, 0.6, 0.0, -0.36, 0.48, 0.8)


def voxels(shape: Sequence[int] = (5, 12, 10), seed: int = 0) -> Array:
    """Numbers (slices, rows, columns), int16."""
    return np.random.default_rng(seed).integers(0, 4000, shape).astype(np.int16)


def normal(orientation: Sequence[float]) -> Array:
    return np.cross(orientation[:3], orientation[3:])


def uid_of(name: str) -> str:
    """The same UID for the same name."""
    return generate_uid(entropy_srcs=[name])


def header(series: str, sop_class: str, number: int, **tags: Any) -> Dataset:
    """What files of all kinds have in common; a tag of None is left out."""
    data = Dataset()
    data.file_meta = FileMetaDataset()
    data.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    data.SOPClassUID = data.file_meta.MediaStorageSOPClassUID = sop_class
    data.SOPInstanceUID = data.file_meta.MediaStorageSOPInstanceUID = uid_of(f"{series} {number}")
    values: dict[str, Any] = {
        "PatientName": "Doe^Johnny",
        "PatientID": "PID-4711-XY",
        "PatientBirthDate": "19700131",
        "PatientSex": "O",
        "StudyInstanceUID": uid_of("study"),
        "SeriesInstanceUID": series,
        "FrameOfReferenceUID": uid_of("frame"),
        "StudyID": "1",
        "StudyDate": "20200101",
        "StudyTime": "000000",
        "AccessionNumber": "",
        "ReferringPhysicianName": "",
        "SeriesNumber": 1,
        "InstanceNumber": number,
        "Modality": "CT",
        "Manufacturer": "",
    }
    for name, value in (values | tags).items():
        if value is not None:
            setattr(data, name, value)
    return data


def set_pixels(data: Dataset, pixels: Array) -> None:
    """Pixels (rows, columns) or (frames, rows, columns), 16 bits."""
    data.Rows, data.Columns = pixels.shape[-2:]
    data.SamplesPerPixel, data.PhotometricInterpretation = 1, "MONOCHROME2"
    data.BitsAllocated, data.BitsStored, data.HighBit = 16, 16, 15
    data.PixelRepresentation = int(pixels.dtype.kind == "i")
    order = ">" if data.file_meta.TransferSyntaxUID == ExplicitVRBigEndian else "<"
    data.PixelData = pixels.astype(pixels.dtype.newbyteorder(order)).tobytes()


def save(data: Dataset, file: Path, syntax: str = ExplicitVRLittleEndian) -> Path:
    """Write a file, compressed where the syntax wants it."""
    file.parent.mkdir(parents=True, exist_ok=True)
    if pydicom.uid.UID(syntax).is_encapsulated:
        data.compress(syntax, generate_instance_uid=False)
    else:
        data.file_meta.TransferSyntaxUID = syntax
        if syntax == ExplicitVRBigEndian:
            data.PixelData = np.frombuffer(data.PixelData, "<i2").astype(">i2").tobytes()
    data.save_as(file, enforce_file_format=True)
    return file


def image(
    pixels: Array,
    position: Sequence[float],
    orientation: Sequence[float],
    spacing: Sequence[float],
    series: str,
    number: int,
    **tags: Any,
) -> Dataset:
    """A single CT image; its HU are the pixels minus 1024."""
    places = {
        "ImageType": ["ORIGINAL", "PRIMARY", "AXIAL"],
        "ImagePositionPatient": [round(float(value), 6) for value in position],
        "ImageOrientationPatient": list(orientation),
        "PixelSpacing": list(spacing),
        "SliceThickness": 1.0,
        "RescaleSlope": 1,
        "RescaleIntercept": -1024,
    }
    data = header(series, CTImageStorage, number, **(places | tags))
    set_pixels(data, pixels)
    return data


def series_of(
    volume: Array,
    origin: Sequence[float] = (-20.0, 35.5, 100.0),
    orientation: Sequence[float] = RAS,
    spacing: Sequence[float] = (1.0, 1.0, 1.0),
    series: str = "",
    **tags: Any,
) -> list[Dataset]:
    """Images of a volume (slices, rows, columns) with the spacing of slices, rows and columns."""
    uid = series or uid_of("series")
    step = spacing[0] * normal(orientation)
    return [
        image(pixels, np.add(origin, number * step), orientation, spacing[1:], uid, number + 1, **tags)
        for number, pixels in enumerate(volume)
    ]


def write(images: Sequence[Dataset], folder: Path, syntax: str = ExplicitVRLittleEndian) -> list[Path]:
    """Write images as IM_0000, IM_0001, …"""
    return [save(data, folder / f"IM_{number:04d}", syntax) for number, data in enumerate(images)]


def twin(
    volume: Array, origin: Sequence[float], orientation: Sequence[float], spacing: Sequence[float]
) -> nib.Nifti1Image:
    """The same volume as NIfTI, by the definition of both formats: DICOM's x and y point the other way."""
    affine = np.eye(4)
    axes = [orientation[:3], orientation[3:], normal(orientation)]
    affine[:3, :3] = np.transpose(axes) * np.array([spacing[2], spacing[1], spacing[0]])
    affine[:3, 3] = origin
    return nib.Nifti1Image(volume.transpose(2, 1, 0), np.diag([-1.0, -1.0, 1.0, 1.0]) @ affine)


def enhanced(volume: Array, order: Sequence[int], spacing: Sequence[float] = (1.0, 1.0, 1.0)) -> Dataset:
    """An enhanced CT image whose frames come in some order, each with an intercept of its own."""
    data = header(uid_of("enhanced"), EnhancedCTImageStorage, 1, ImageType=["ORIGINAL", "PRIMARY", "VOLUME", "NONE"])
    set_pixels(data, volume[list(order)])
    data.NumberOfFrames = len(order)
    shared, orientation, measures = Dataset(), Dataset(), Dataset()
    orientation.ImageOrientationPatient = list(RAS)
    measures.PixelSpacing = list(spacing[1:])
    shared.PlaneOrientationSequence, shared.PixelMeasuresSequence = [orientation], [measures]
    data.SharedFunctionalGroupsSequence, data.PerFrameFunctionalGroupsSequence = [shared], []
    for number in order:
        frame, place, values = Dataset(), Dataset(), Dataset()
        place.ImagePositionPatient = [-20.0, 35.5, 100.0 + spacing[0] * number]
        values.RescaleSlope, values.RescaleIntercept, values.RescaleType = 1, -1000 - number, "HU"
        frame.PlanePositionSequence, frame.PixelValueTransformationSequence = [place], [values]
        data.PerFrameFunctionalGroupsSequence.append(frame)
    return data


def report(file: Path) -> Path:
    """A structured report of the same patient."""
    return save(header(uid_of("report"), EnhancedSRStorage, 1, Modality="SR"), file)


def segmentation(
    sources: Sequence[Path], masks: Array, names: Sequence[str], file: Path, kind: str = "BINARY", **options: Any
) -> Path:
    """A DICOM SEG of masks: numbers of segments (slices, rows, columns), or (slices, rows, columns, segments)."""
    described = [
        highdicom.seg.SegmentDescription(
            segment_number=number + 1,
            segment_label=name,
            segmented_property_category=codes.SCT.Organ,
            segmented_property_type=codes.SCT.Liver,
            algorithm_type=highdicom.seg.SegmentAlgorithmTypeValues.MANUAL,
        )
        for number, name in enumerate(names)
    ]
    made = highdicom.seg.Segmentation(
        [pydicom.dcmread(source) for source in sources],
        masks,
        kind,
        described,
        series_instance_uid=uid_of(f"seg {file.name}"),
        series_number=2,
        sop_instance_uid=uid_of(f"seg of {file.name}"),
        instance_number=1,
        manufacturer="none",
        manufacturer_model_name="none",
        software_versions="1",
        device_serial_number="1",
        **options,
    )
    file.parent.mkdir(parents=True, exist_ok=True)
    made.save_as(file)
    return file
