"""What a DICOM file says of itself, before its pixels are read."""

from __future__ import annotations

import math
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import SimpleITK as sitk  # noqa: N813

from nnunet_ima.datasets.dicom.standard import SYNTAXES, no_image, syntax_name

SOP_CLASS, INSTANCE, SERIES = "0008|0016", "0008|0018", "0020|000e"
IMAGE_TYPE, FRAMES, SAMPLES, PHOTOMETRIC = "0008|0008", "0028|0008", "0028|0002", "0028|0004"
POSITION, ORIENTATION, SPACING, ROWS, COLUMNS = "0020|0032", "0020|0037", "0028|0030", "0028|0010", "0028|0011"
# patient's name, id, birth date, other ids and names, birth name, mother's birth name; number of the request
PATIENT = ("0010|0010", "0010|0020", "0010|0030", "0010|1000", "0010|1001", "0010|1005", "0010|1060", "0008|0050")
NAMES = {POSITION: "ImagePositionPatient", ORIENTATION: "ImageOrientationPatient", SPACING: "PixelSpacing"}
LONG = (b"OB", b"OW", b"OF", b"OD", b"OL", b"OV", b"SQ", b"UC", b"UN", b"UR", b"UT", b"SV", b"UV")


class DicomError(ValueError):
    """Why a case cannot be measured, in words that a report may hold: without any name or path.

    Attributes:
        files: those at fault, for the screen alone.
    """

    def __init__(self, reason: str, *files: Path) -> None:
        super().__init__(reason)
        self.files = files


@dataclass(frozen=True)
class Meta:
    """The file meta information, which is written alike in all DICOM files.

    Attributes:
        sop_class: UID of what the file holds.
        syntax: UID of how it is encoded.
    """

    sop_class: str
    syntax: str


@dataclass(frozen=True)
class Header:
    """Header of a DICOM image.

    Attributes:
        file: the file.
        syntax: UID of how it is encoded.
        tags: text by tag, such as "0020|0032"; bytes that are no UTF-8 as surrogates.
    """

    file: Path
    syntax: str
    tags: dict[str, str]

    def text(self, tag: str) -> str:
        """Text of a tag, "" if it is missing."""
        return self.tags.get(tag, "").strip(" \0")

    def numbers(self, tag: str, number: int) -> tuple[float, ...]:
        """Numbers of a tag.

        Raises:
            DicomError: it is missing, or holds something else.
        """
        try:
            values = tuple(float(part) for part in self.text(tag).split("\\"))
        except ValueError:
            values = ()
        if len(values) != number or not all(map(math.isfinite, values)):
            told = "lacks" if not self.text(tag) else f"does not have {number} numbers in"
            msg = f"an image {told} {NAMES[tag]}, without which its place is unknown; export the series again, whole"
            raise DicomError(msg, self.file)
        return values


def read_meta(file: Path) -> Meta:
    """Read the file meta information.

    Raises:
        DicomError: the file cannot be opened, or is no DICOM file.
    """
    try:
        with file.open("rb") as stream:
            if stream.read(132)[128:] != b"DICM":
                msg = "a file is no DICOM file, or cut off; move it elsewhere, or copy it again"
                raise DicomError(msg, file)
            found = _meta_elements(stream)
    except OSError as error:
        msg = f"a file cannot be opened ({error.strerror})"
        raise DicomError(msg, file) from error
    return Meta(found.get(0x0002, ""), found.get(0x0010, ""))


def _meta_elements(stream: BinaryIO) -> dict[int, str]:
    """Text of the elements of group 0002, always in explicit little endian; as far as there are any."""
    found: dict[int, str] = {}
    while len(start := stream.read(8)) == 8:
        group, element, kind, length = struct.unpack("<HH2sH", start)
        if group != 0x0002:
            break
        if kind in LONG:
            rest = stream.read(4)
            length = int.from_bytes(rest, "little") if len(rest) == 4 else 0
        found[element] = stream.read(min(length, 2**16)).decode("ascii", "replace").strip(" \0")
    return found


def read_header(file: Path) -> Header:
    """Read the header of an image.

    Raises:
        DicomError: the file is no DICOM image, or cannot be read.
    """
    meta = read_meta(file)
    if kind := no_image(meta.sop_class):
        msg = f"a file is no image but {kind}; move it elsewhere"
        raise DicomError(msg, file)
    if meta.syntax not in SYNTAXES:
        raise undecodable(meta.syntax, file)
    reader = sitk.ImageFileReader()
    reader.SetImageIO("GDCMImageIO")
    reader.SetFileName(str(file))
    try:
        reader.ReadImageInformation()
    except (RuntimeError, UnicodeError) as error:
        msg = "a file cannot be read: it is damaged or cut off, or holds no image; copy it again, or move it elsewhere"
        raise DicomError(msg, file) from error
    wanted = (SOP_CLASS, INSTANCE, SERIES, IMAGE_TYPE, FRAMES, SAMPLES, PHOTOMETRIC, *NAMES, ROWS, COLUMNS, *PATIENT)
    tags = {tag: reader.GetMetaData(tag) for tag in wanted if reader.HasMetaDataKey(tag)}
    header = Header(file, meta.syntax, tags)
    if not header.text(SERIES):
        msg = "an image has no SeriesInstanceUID, so that it belongs to no series; export it again"
        raise DicomError(msg, file)
    return header


def undecodable(syntax: str, *files: Path) -> DicomError:
    """An error that names how a file is compressed."""
    msg = f"images compressed as {syntax_name(syntax)} cannot be decoded here; export the series uncompressed"
    return DicomError(msg, *files)
