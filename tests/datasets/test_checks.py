"""The checks of an archive find every fault, and only faults."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest

from nnunet_ima.datasets.archive import open_archive
from nnunet_ima.datasets.checks import Report, check_archive
from nnunet_ima.datasets.tasks import load_task

REAL_D4 = Path(__file__).resolve().parents[3] / "shared" / "data" / "Task04_Hippocampus"
IMAGE = "imagesTr/hippocampus_001.nii.gz"
LABEL = "labelsTr/hippocampus_001.nii.gz"


@pytest.fixture
def root(write_archive: Callable[..., Path], tmp_path: Path) -> Path:
    return write_archive(tmp_path, cases=3, shape=(12, 14, 12))


def check(root: Path, task: str = "D4") -> Report:
    return check_archive(open_archive(root, load_task(task), root), show_progress=False)


def rewrite(
    file: Path,
    voxels: Callable[[np.ndarray[Any, Any]], np.ndarray[Any, Any]] = lambda voxels: voxels,
    affine: Callable[[np.ndarray[Any, Any]], np.ndarray[Any, Any]] = lambda affine: affine,
) -> None:
    volume = nib.load(file)
    changed = voxels(np.array(volume.dataobj))
    file.unlink()
    nib.save(nib.Nifti1Image(changed, affine(volume.affine.copy())), file)


def put(voxels: np.ndarray[Any, Any], value: float) -> np.ndarray[Any, Any]:
    changed = voxels.astype(np.float32)
    changed[0, 0, 0] = value
    return changed


def shift(affine: np.ndarray[Any, Any], distance: float) -> np.ndarray[Any, Any]:
    affine[0, 3] += distance
    return affine


def shear(affine: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    affine[0, 1] = 0.3
    return affine


def truncate(file: Path, share: float = 0.5) -> None:
    content = file.read_bytes()
    file.write_bytes(content[: int(len(content) * share)])


def flip_last_bit_of_check_sum(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[-5] ^= 1
    file.write_bytes(content)


def test_whole_archive_has_no_faults(root: Path) -> None:
    (root / "imagesTr" / "._hippocampus_000.nii.gz").write_bytes(b"made by macOS")
    (root / "labelsTr" / "._stray.nii.gz").write_bytes(b"made by macOS")
    report = check(root)
    assert report.faults == ()
    assert list(report.training) == ["hippocampus_000", "hippocampus_001", "hippocampus_002"]


@pytest.mark.parametrize(
    ("damage", "file", "message"),
    [
        (lambda root: (root / LABEL).unlink(), IMAGE, f"is an image without a label ({LABEL} is missing)"),
        (lambda root: (root / IMAGE).unlink(), LABEL, f"is a label without an image ({IMAGE} is missing)"),
        (lambda root: truncate(root / IMAGE), IMAGE, "cannot be read: Compressed file ended"),
        (lambda root: truncate(root / LABEL, 0), LABEL, "cannot be read"),
        (lambda root: flip_last_bit_of_check_sum(root / IMAGE), IMAGE, "cannot be read: CRC check failed"),
        (lambda root: (root / IMAGE).write_bytes(b"no image"), IMAGE, "cannot be read: Not a gzipped file"),
        (lambda root: rewrite(root / IMAGE, affine=shear), IMAGE, "ITK only supports orthonormal"),
        (lambda root: rewrite(root / IMAGE, lambda v: put(v, np.nan)), IMAGE, "has 1 voxel that are not finite"),
        (lambda root: rewrite(root / LABEL, lambda v: put(v, np.inf)), LABEL, "has 1 voxel that are not finite"),
        (lambda root: rewrite(root / LABEL, lambda v: put(v, 7)), LABEL, "has unknown label values 7;"),
        (lambda root: rewrite(root / LABEL, lambda v: put(v, 0.5)), LABEL, "has unknown label values 0.5;"),
        (lambda root: rewrite(root / LABEL, lambda v: v[:-1]), LABEL, "has shape 11×14×12, its image 12×14×12"),
        (lambda root: rewrite(root / LABEL, lambda v: v[..., None, None]), LABEL, "has shape 12×14×12×1×1"),
        (lambda root: rewrite(root / LABEL, affine=lambda a: shift(a, 0.5)), LABEL, "up to 0.5 mm apart"),
        (lambda root: rewrite(root / LABEL, affine=lambda a: a @ np.diag([1, 1, 1.1, 1])), LABEL, "another affine"),
        (lambda root: rewrite(root / IMAGE, lambda v: np.stack([v, v], -1)), IMAGE, "has 2 channels"),
        (lambda root: rewrite(root / IMAGE, lambda v: v[..., 0]), IMAGE, "has 2 dimensions"),
        (lambda root: rewrite(root / IMAGE, lambda v: v.astype(np.complex64)), IMAGE, "not numbers"),
    ],
)
def test_fault(root: Path, damage: Callable[[Path], None], file: str, message: str) -> None:
    damage(root)
    report = check(root)
    assert report.faulty_cases == ("hippocampus_001",)
    assert any(fault.file == file and message in fault.message for fault in report.faults), report.summary()
    assert list(report.training) == ["hippocampus_000", "hippocampus_002"]


def test_rounding_of_the_affine_is_no_fault(root: Path) -> None:
    rewrite(root / LABEL, affine=lambda affine: shift(affine, 1e-4))
    assert check(root).faults == ()


def test_case_that_is_listed_but_missing(root: Path) -> None:
    (root / IMAGE).unlink()
    (root / LABEL).unlink()
    assert [str(fault) for fault in check(root).faults] == [
        f"hippocampus_001: {IMAGE}: is missing",
        f"hippocampus_001: {LABEL}: is missing",
    ]


def test_cases_that_are_not_listed(root: Path) -> None:
    for folder in ("imagesTr", "labelsTr"):
        (root / folder / "stray.nii.gz").write_bytes((root / folder / "hippocampus_000.nii.gz").read_bytes())
    (root / "labelsTr" / "orphan.nii.gz").write_bytes((root / LABEL).read_bytes())
    report = check(root)
    assert [(fault.case, fault.file) for fault in report.faults] == [
        ("orphan", "labelsTr/orphan.nii.gz"),
        ("stray", "imagesTr/stray.nii.gz"),
    ]


def test_every_fault_is_in_one_report(root: Path) -> None:
    truncate(root / "imagesTr" / "hippocampus_000.nii.gz")
    rewrite(root / "labelsTr" / "hippocampus_000.nii.gz", lambda voxels: put(voxels, 7))
    rewrite(root / LABEL, lambda voxels: put(voxels, 7), lambda affine: shift(affine, 3))
    report = check(root)
    assert len(report.faults) == 4
    assert report.summary().startswith("4 faults in 2 of 3 cases of Task04_Hippocampus:\n  hippocampus_000: imagesTr/")
    assert list(report.training) == ["hippocampus_002"]


def test_two_channels_and_test_images(write_archive: Callable[..., Path], tmp_path: Path) -> None:
    root = write_archive(tmp_path, "D5", cases=2, shape=(16, 16, 8), spacing=(0.6, 0.6, 3.6), tests=2)
    rewrite(root / "imagesTr" / "prostate_000.nii.gz", lambda voxels: voxels[..., 0])
    truncate(root / "imagesTs" / "prostate_003.nii.gz")
    report = check(root, "D5")
    assert [fault.case for fault in report.faults] == ["prostate_000", "prostate_003"]
    assert report.faults[0].message == "has 1 channel, dataset.json names 2 (T2, ADC)"
    assert (list(report.training), list(report.test)) == (["prostate_001"], ["prostate_002"])


@pytest.mark.skipif(not REAL_D4.is_dir(), reason="the archive Task04_Hippocampus is not here")
def test_real_hippocampus_has_no_faults() -> None:
    report = check(REAL_D4)
    assert report.faults == ()
    assert len(report.training) == 220
