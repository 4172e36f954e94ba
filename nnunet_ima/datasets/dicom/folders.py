"""Which cases a folder of DICOM files holds.

Either one sub-folder for each case, with the files of its one series in it, or with sub-folders 0000, 0001, … for the
channels (the order of channels is never guessed); or the files of many series mixed in one folder, for models of one
channel.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from nnunet_ima.datasets.checks import count
from nnunet_ima.datasets.dicom.headers import SERIES, DicomError, Header, read_header, read_meta
from nnunet_ima.datasets.dicom.names import identifying_words, pseudonym, pseudonym_of_file, tells_patient
from nnunet_ima.files import check_name


@dataclass(frozen=True)
class DicomCase:
    """Images of a case, not read yet.

    Attributes:
        name: tells nothing about the patient.
        source: what its label is named like: its folder, or in a mixed folder its SeriesInstanceUID.
        place: where its files lie, for the screen alone.
        channels: headers of the series of each channel.
        words: of the patient; none of them may reach a report.
        fault: why it cannot be read; None: not known yet.
    """

    name: str
    source: str
    place: str
    channels: tuple[tuple[Header, ...], ...]
    words: frozenset[str] = frozenset()
    fault: DicomError | None = None

    @property
    def series(self) -> frozenset[str]:
        """SeriesInstanceUIDs of its channels."""
        return frozenset(header.text(SERIES) for channel in self.channels for header in channel)


def holds_dicom(folder: Path, file_ending: str) -> bool:
    """Whether a folder holds DICOM files, and none of the model's own format beside them."""
    if not folder.is_dir() or any(entry.name.endswith(file_ending) for entry in folder.iterdir()):
        return False
    return any(is_dicom(file) for file in files_below(folder))


def find_cases(folder: Path, channels: int) -> list[DicomCase]:
    """Find the cases in a folder of DICOM files.

    Args:
        folder: holds a sub-folder for each case, or the files of many series.
        channels: image channels of the model.

    Raises:
        ValueError: the folder is laid out in neither way, has files of several series for a model of several channels,
            holds the same series twice, or a case's folder has a name that none may have.
    """
    entries = sorted(entry for entry in folder.iterdir() if not _is_ignored(entry))
    files, folders = ([entry for entry in entries if entry.is_dir() == kind] for kind in (False, True))
    if files and folders:
        msg = (
            f"{folder} holds both files ({files[0].name}, …) and folders ({folders[0].name}, …); give each case a "
            "folder of its own, or put the files of all series into one folder"
        )
        raise ValueError(msg)
    if files and channels > 1:
        msg = (
            f"{folder} holds the files of all series, but the model wants {channels} channels for each case; give each "
            f"case a folder with the sub-folders {_channel_names(channels)}"
        )
        raise ValueError(msg)
    found = _mixed(files) if files else [case for entry in folders for case in _case(entry, channels)]
    places: dict[str, str] = {}
    for case in found:
        if case.name in places:
            msg = f"{places[case.name]} and {case.place} hold the same series; remove one of them"
            raise ValueError(msg)
        places[case.name] = case.place
    return found


def _mixed(files: Sequence[Path]) -> list[DicomCase]:
    """A case for each series, and one for each file that belongs to none."""
    headers, faults = _read(files)
    series: dict[str, list[Header]] = {}
    for header in headers:
        series.setdefault(header.text(SERIES), []).append(header)
    found = []
    for uid, images in sorted(series.items()):
        place = f"SeriesInstanceUID {uid}, {count(len(images), 'file')} ({images[0].file}, …)"
        found.append(DicomCase(pseudonym(images), uid, place, (tuple(images),), identifying_words(images)))
    strays = {pseudonym_of_file(fault.files[0]): fault for fault in faults}
    return found + [DicomCase(name, "", str(fault.files[0]), (), fault=fault) for name, fault in sorted(strays.items())]


def _case(folder: Path, channels: int) -> Iterator[DicomCase]:
    """The case in a folder; none if it holds no files."""
    files = list(files_below(folder))
    if not files:
        return
    headers, faults = _read(files)
    words = identifying_words(headers)
    name = check_name(folder.name, folder)
    if faults or tells_patient(name, words):  # who it is stands in a file that cannot be read, perhaps
        name = pseudonym(headers) if headers else pseudonym_of_file(files[0])
    try:
        if faults:
            raise faults[0]
        series = _channels(headers, folder, channels)
    except DicomError as fault:
        yield DicomCase(name, folder.name, str(folder), (tuple(headers),), words, fault)
    else:
        yield DicomCase(name, folder.name, str(folder), series, words)


def _channels(headers: Sequence[Header], folder: Path, channels: int) -> tuple[tuple[Header, ...], ...]:
    """Headers of each channel."""
    places: dict[str, list[Header]] = {}
    for header in headers:
        places.setdefault(str(header.file.parent.relative_to(folder)), []).append(header)
    wanted = [f"{number:04d}" for number in range(channels)]
    if channels == 1 and places.keys() == {"."}:
        wanted = ["."]
    series = {place: {header.text(SERIES) for header in images} for place, images in places.items()}
    if sorted(places) != wanted or any(len(uids) > 1 for uids in series.values()):
        own = "" if channels > 1 else "the files of a single series, or "
        msg = (
            f"the case's folder must hold {own}a sub-folder for each channel of the model ({_channel_names(channels)}) "
            f"with the files of a single series; it holds {len(set().union(*series.values()))} series in "
            f"{count(len(places), 'folder')}"
        )
        raise DicomError(msg, folder)
    return tuple(tuple(places[place]) for place in wanted)


def _channel_names(channels: int) -> str:
    return ", ".join(f"{number:04d}" for number in range(channels))


def _read(files: Sequence[Path]) -> tuple[list[Header], list[DicomError]]:
    """Headers of all files that are images, and the faults of the others."""
    headers, faults = [], []
    for file in files:
        try:
            headers.append(read_header(file))
        except DicomError as fault:
            faults.append(fault)
    return headers, faults


def files_below(folder: Path) -> Iterator[Path]:
    """All files in and below a folder, sorted."""
    for place, folders, names in os.walk(folder, followlinks=True):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        yield from (Path(place, name) for name in sorted(names) if not _is_ignored(Path(name)))


def _is_ignored(entry: Path) -> bool:
    return entry.name.startswith(".") or entry.name.upper() == "DICOMDIR"


def is_dicom(file: Path) -> bool:
    """Whether a file begins as DICOM files do."""
    try:
        read_meta(file)
    except DicomError:
        return False
    return True
