"""Cases of an audit whose images are DICOM files: as files of the model's format, for the length of a run."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import SimpleITK as sitk  # noqa: N813
from tqdm import tqdm

from nnunet_ima.datasets.dicom.folders import DicomCase, files_below, find_cases, is_dicom
from nnunet_ima.datasets.dicom.headers import SERIES, DicomError
from nnunet_ima.datasets.dicom.seg import read_seg, referenced_series
from nnunet_ima.datasets.dicom.series import read_series
from nnunet_ima.inference.cases import Case
from nnunet_ima.inference.model import TrainedModel

WRITABLE = (".nii.gz", ".nii", ".nrrd", ".mha")  # one file holds voxels and geometry


@dataclass(frozen=True)
class PendingCase:
    """A case that is not read yet.

    Attributes:
        case: its images.
        labels: files of the model's format, or DICOM SEG; with none or several it cannot be read.
    """

    case: DicomCase
    labels: tuple[Path, ...]

    @property
    def name(self) -> str:
        """Name of the case, which tells nothing about the patient."""
        return self.case.name

    def write(self, folder: Path, model: TrainedModel) -> Case:
        """Write its files into a folder; equal sources give equal files.

        Raises:
            DicomError: it cannot be read.
        """
        if self.case.fault is not None:
            raise self.case.fault
        if not self.labels:
            msg = (
                "it has no label: none is named like the case's folder (or, in a folder of many series, like the "
                "SeriesInstanceUID), and no DICOM SEG refers to it"
            )
            raise DicomError(msg)
        if len(self.labels) > 1:
            msg = f"{len(self.labels)} labels belong to it; keep one of them"
            raise DicomError(msg, *self.labels)
        ending = model.dataset_json["file_ending"]
        series = [read_series(channel) for channel in self.case.channels]
        images = tuple(folder / f"{self.name}_{number:04d}{ending}" for number in range(len(series)))
        label = folder / f"{self.name}{ending}"
        if self.labels[0].name.endswith(ending):
            label.symlink_to(self.labels[0].absolute())  # whose name may tell the patient
        else:
            sitk.WriteImage(self._read_seg(self.labels[0], series, model), str(label), True)
        for image, file in zip(series, images, strict=True):
            sitk.WriteImage(image, str(file), True)
        return Case(self.name, images, label, folder=folder)

    def _read_seg(self, file: Path, series: Sequence[sitk.Image], model: TrainedModel) -> sitk.Image:
        """Label map on the voxels of the channel that it was made on."""
        if model.label_manager.has_regions:
            msg = (
                "the model's labels are regions, each of several numbers, which a DICOM SEG does not tell apart; store "
                "the label in the model's file format"
            )
            raise DicomError(msg, file)
        uids = referenced_series(file)
        channel = next(number for number, images in enumerate(self.case.channels) if images[0].text(SERIES) in uids)
        labels = {name: int(value) for name, value in model.dataset_json["labels"].items()}
        return read_seg(file, series[channel], labels, self.case.words)


def dicom_cases(images: Path, labels: Path, model: TrainedModel) -> list[PendingCase]:
    """Find own cases whose images are DICOM files, and say on the screen which pseudonym is which case.

    Args:
        images: folder of DICOM files; see `datasets.dicom.folders`.
        labels: folder of DICOM SEG, or of label maps in the model's file format, named like the cases' folders (like
            the SeriesInstanceUIDs, where all series lie in one folder).
        model: its channels and file format are wanted.

    Raises:
        FileNotFoundError: there is no folder of labels.
        ValueError: the images are laid out in no known way, a label belongs to no case, a DICOM SEG cannot be read, or
            the model's file format holds no volumes.
    """
    ending = model.dataset_json["file_ending"]
    if ending not in WRITABLE:
        msg = f"{images} holds DICOM files, for models of {', '.join(WRITABLE)} files; this one wants {ending}"
        raise ValueError(msg)
    if not labels.is_dir():
        msg = f"the folder {labels} does not exist"
        raise FileNotFoundError(msg)
    found = find_cases(images, model.channels)
    for case in found:
        if case.name != case.source:
            print(f"{case.name}: {case.place}", file=sys.stderr)
    matching = _labels(found, labels, ending)
    return [PendingCase(case, tuple(matching[case.name])) for case in found]


def write_cases(pending: Sequence[PendingCase], folder: Path, model: TrainedModel) -> list[Case]:
    """Write the files of all cases into a folder.

    A case that cannot be read gets a fault, and a file that says the same, as manifests tell cases by their files. The
    screen names the files at fault.
    """
    often = 0.2 if sys.stderr.isatty() else 30.0  # seconds; a log file would fill up
    cases, files = [], []
    with tqdm(pending, desc="reading DICOM", unit="case", mininterval=often, delay=often, leave=False) as bar:
        for case in bar:
            try:
                cases.append(case.write(folder, model))
            except DicomError as fault:
                files += [f"{case.name}: look at {file}" for file in fault.files]
                note = folder / f"{case.name}.txt"
                note.write_text(f"{fault}\n", encoding="utf-8")
                cases.append(Case(case.name, (note,), note, fault=str(fault), folder=folder))
    if files:
        print("\n".join(files), file=sys.stderr)
    return cases


def _labels(cases: Sequence[DicomCase], folder: Path, ending: str) -> dict[str, list[Path]]:
    """Labels of each case, by its name."""
    found: dict[str, list[Path]] = {case.name: [] for case in cases}
    for file in files_below(folder):
        if file.name.endswith(ending):
            fitting = [case for case in cases if case.source == file.name[: -len(ending)]]
        elif is_dicom(file):
            uids = referenced_series(file)
            fitting = [case for case in cases if case.series & uids]
        else:
            continue
        if not fitting:
            msg = f"labels without an image: {file} (no image)"
            raise ValueError(msg)
        for case in fitting:
            found[case.name].append(file)
    return found
