"""Check an archive before anything is written: every fault of every case, in one report."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import nibabel as nib
import numpy as np
import SimpleITK as sitk  # noqa: N813
from tqdm import tqdm

from nnunet_ima.datasets.archive import SUFFIX, Archive, nifti_files
from nnunet_ima.files import read_gzip_to_end

# Two affines agree if no corner of the volume moves by more than this share of the smallest voxel edge.
AFFINE_TOLERANCE = 0.01


@dataclass(frozen=True)
class Fault:
    """Something wrong with a case.

    Attributes:
        case: name of the case.
        file: the file at fault, relative to the archive.
        message: what is wrong with it.
    """

    case: str
    file: str
    message: str

    def __str__(self) -> str:
        return f"{self.case}: {self.file}: {self.message}"


@dataclass(frozen=True)
class Report:
    """What the checks of an archive found.

    Attributes:
        archive: the archive.
        training: image and label file of every training case without fault.
        test: image file of every test case without fault.
        faults: all faults.
    """

    archive: Archive
    training: dict[str, tuple[Path, Path]]
    test: dict[str, Path]
    faults: tuple[Fault, ...]

    @property
    def faulty_cases(self) -> tuple[str, ...]:
        """Names of the cases with a fault."""
        return tuple(dict.fromkeys(fault.case for fault in self.faults))

    def summary(self) -> str:
        """One line per fault under a headline."""
        faulty, good = len(self.faulty_cases), len(self.training) + len(self.test)
        headline = f"{count(len(self.faults), 'fault')} in {faulty} of {count(faulty + good, 'case')}"
        return "\n".join([f"{headline} of {self.archive.root.name}:", *(f"  {fault}" for fault in self.faults)])


def check_archive(archive: Archive, show_progress: bool = True) -> Report:
    """Check all cases of an archive.

    Looked for are: missing and unreadable files, images without labels and labels without images, cases that
    dataset.json does not list, a wrong number of channels, shapes or affines that differ between image and label,
    unknown label values, voxels that are not finite.

    Args:
        archive: the archive.
        show_progress: draw a progress bar on stderr.
    """
    pairs = _training_pairs(archive)
    tests = nifti_files(archive.root / "imagesTs")
    training: dict[str, tuple[Path, Path]] = {}
    good_tests: dict[str, Path] = {}
    faults: list[Fault] = []
    with tqdm(total=len(pairs) + len(tests), desc=f"Checking {archive.root.name}", disable=not show_progress) as bar:
        for case, (image, label) in pairs.items():
            found = list(_check_pair(archive, case, image, label))
            faults += found
            if not found:
                training[case] = (image, label)
            bar.update()
        for case, image in tests.items():
            found = list(_check_image(archive, case, image, Volume(image)))
            faults += found
            if not found:
                good_tests[case] = image
            bar.update()
    return Report(archive, training, good_tests, tuple(faults))


def _training_pairs(archive: Archive) -> dict[str, tuple[Path, Path]]:
    """Return image and label file of every training case, listed or lying in the folders; a file may be missing."""
    images, labels = archive.root / "imagesTr", archive.root / "labelsTr"
    listed = {case: (archive.root / image, archive.root / label) for case, (image, label) in archive.listed.items()}
    claimed = {label for _, label in listed.values()}
    present = {*nifti_files(images), *(case for case, file in nifti_files(labels).items() if file not in claimed)}
    found = {case: (images / f"{case}{SUFFIX}", labels / f"{case}{SUFFIX}") for case in present}
    return dict(sorted((found | listed).items()))


class Volume:
    """A NIfTI file: its voxels and affine, or the reason why it cannot be read."""

    def __init__(self, file: Path) -> None:
        self.voxels: np.ndarray[Any, Any] = np.empty(0)
        self.affine: np.ndarray[Any, Any] = np.eye(4)
        self.fault = ""
        if not file.is_file():
            self.fault = "is missing"
            return
        if not file.name.endswith(SUFFIX):
            self.fault = f"is not a {SUFFIX} file, which nnU-Net's converter expects"
            return
        try:
            read_gzip_to_end(file)
            volume = cast(nib.Nifti1Image, nib.load(file))
            self.voxels = np.asanyarray(volume.dataobj)
            self.affine = np.asarray(volume.affine, dtype=float)
            reader = sitk.ImageFileReader()  # nnU-Net's own; refuses some geometries
            reader.SetFileName(str(file))
            reader.ReadImageInformation()
        except Exception as error:  # a damaged file can raise anything
            self.fault = f"cannot be read: {last_line(error)}"
            return
        if self.voxels.dtype.kind not in "biuf":
            self.fault = f"has voxels of type {self.voxels.dtype}, not numbers"

    @property
    def shape(self) -> tuple[int, ...]:
        """Spatial shape."""
        shape: tuple[int, ...] = self.voxels.shape[:3]
        return shape


def _check_pair(archive: Archive, case: str, image_file: Path, label_file: Path) -> Iterator[Fault]:
    """Yield the faults of a training case."""
    image_name, label_name = _relative(archive, image_file), _relative(archive, label_file)
    if image_file.is_file() and not label_file.is_file():
        yield Fault(case, image_name, f"is an image without a label ({label_name} is missing)")
        return
    if label_file.is_file() and not image_file.is_file():
        yield Fault(case, label_name, f"is a label without an image ({image_name} is missing)")
        return
    if archive.listed and case not in archive.listed:
        yield Fault(case, image_name, 'is not listed under "training" in dataset.json')
    image, label = Volume(image_file), Volume(label_file)
    yield from _check_image(archive, case, image_file, image)
    if label.fault:
        yield Fault(case, label_name, label.fault)
        return
    yield from (Fault(case, label_name, message) for message in _label_faults(archive, label))
    if not image.fault:
        yield from (Fault(case, label_name, message) for message in geometry_faults(image, label))


def _check_image(archive: Archive, case: str, file: Path, image: Volume) -> Iterator[Fault]:
    name = _relative(archive, file)
    if image.fault:
        yield Fault(case, name, image.fault)
        return
    if image.voxels.ndim not in (3, 4):
        yield Fault(case, name, f"has {image.voxels.ndim} dimensions; expected 3, or 4 with channels")
        return
    channels = image.voxels.shape[3] if image.voxels.ndim == 4 else 1
    if channels != len(archive.channels):
        expected = f"{len(archive.channels)} ({', '.join(archive.channels)})"
        yield Fault(case, name, f"has {count(channels, 'channel')}, dataset.json names {expected}")
    if bad := int(np.count_nonzero(~np.isfinite(image.voxels))):
        yield Fault(case, name, f"has {count(bad, 'voxel')} that are not finite")


def _label_faults(archive: Archive, label: Volume) -> Iterator[str]:
    finite = np.isfinite(label.voxels)
    if bad := int(np.count_nonzero(~finite)):
        yield f"has {count(bad, 'voxel')} that are not finite"
    unknown = [value for value in np.unique(label.voxels[finite]).tolist() if value not in archive.labels]
    if unknown:
        shown = ", ".join(f"{value:g}" for value in unknown[:5]) + (", ..." if len(unknown) > 5 else "")
        known = ", ".join(str(value) for value in sorted(archive.labels))
        yield f"has unknown label values {shown}; dataset.json names {known}"


def geometry_faults(image: Volume, label: Volume) -> Iterator[str]:
    """Say in what shape and affine of a label (or further channel) differ from those of its image."""
    if label.voxels.ndim != 3 or image.shape != label.shape:
        yield f"has shape {_shape(label.voxels.shape)}, its image {_shape(image.shape)}"
        return
    ends = np.array(np.meshgrid(*[(0, size - 1) for size in image.shape], [1])).reshape(4, -1)
    moved = np.linalg.norm((image.affine @ ends - label.affine @ ends)[:3], axis=0).max()
    edge = np.linalg.norm(image.affine[:3, :3], axis=0).min()
    if moved > AFFINE_TOLERANCE * edge:
        yield f"has another affine than its image: they are up to {moved:.3g} mm apart"


def _relative(archive: Archive, file: Path) -> str:
    return file.relative_to(archive.root).as_posix()


def _shape(shape: tuple[int, ...]) -> str:
    return "×".join(map(str, shape))


def count(number: int, noun: str) -> str:
    """Return a number with its noun, in the plural where needed."""
    return f"{number} {noun}{'' if number == 1 else 's'}"


def last_line(error: Exception) -> str:
    """Return the line of an error that says what is wrong; ITK puts it last, after pages of source positions."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1] if lines else type(error).__name__
