"""Scans read from files, and written again."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813

from nnunet_ima.shift import Scan, find_disturbance
from nnunet_ima.shift.scan_files import read_scan, write_scan


@pytest.fixture
def scan(make_scan: Callable[..., Scan]) -> Scan:
    return make_scan("MR", channels=2)


def test_scans_come_back_from_files_as_they_were(scan: Scan, tmp_path: Path) -> None:
    images, label = [tmp_path / f"case_000{channel}.nii.gz" for channel in range(2)], tmp_path / "case.nii.gz"
    for disturbed in (scan, *_reoriented(scan)):
        write_scan(disturbed, images, label)
        again = read_scan(images, label, "MR")
        np.testing.assert_array_equal(again.channels, disturbed.channels)
        np.testing.assert_array_equal(again.label, disturbed.label)
        np.testing.assert_allclose(again.affine, disturbed.affine, atol=1e-4)
        assert again.modality == "MR"


def _reoriented(scan: Scan) -> list[Scan]:
    disturbance = find_disturbance("reoriented")
    draws = [disturbance.draw(severity, scan, np.random.default_rng(severity)) for severity in range(1, 6)]
    return [disturbance.apply(scan, parameters) for parameters in draws]


def test_the_affine_is_the_one_that_nibabel_reads(scan: Scan, tmp_path: Path) -> None:
    images, label = [tmp_path / f"case_000{channel}.nii.gz" for channel in range(2)], tmp_path / "case.nii.gz"
    write_scan(scan, images, label)
    read = nib.load(images[1])
    np.testing.assert_allclose(read.affine, scan.affine, atol=1e-4)
    np.testing.assert_array_equal(np.asarray(read.dataobj).T, scan.channels[1])


def test_a_picture_is_one_slice(tmp_path: Path) -> None:
    sitk.WriteImage(sitk.GetImageFromArray(np.arange(12, dtype=np.uint8).reshape(3, 4)), str(tmp_path / "a.png"))
    scan = read_scan([tmp_path / "a.png"], None, "CT")
    assert scan.shape == (1, 3, 4)
    assert scan.slice_axis == 0
    assert not scan.label.any()


def test_files_that_do_not_fit_are_refused(scan: Scan, tmp_path: Path) -> None:
    images, label = [tmp_path / f"case_000{channel}.nii.gz" for channel in range(2)], tmp_path / "case.nii.gz"
    write_scan(scan, images, label)
    with pytest.raises(FileNotFoundError, match=r"nothing\.nii\.gz does not exist"):
        read_scan([tmp_path / "nothing.nii.gz"], label, "MR")
    moved = sitk.ReadImage(str(images[1]))
    moved.SetOrigin((0, 0, 0))
    sitk.WriteImage(moved, str(images[1]))
    with pytest.raises(ValueError, match=r"case_0001\.nii\.gz lies on another grid than .*case_0000"):
        read_scan(images, label, "MR")
    sitk.WriteImage(sitk.GetImageFromArray(np.zeros((2, 3, 4, 5), np.uint8)), str(tmp_path / "4d.nii.gz"))
    with pytest.raises(ValueError, match=r"4d\.nii\.gz must hold one volume"):
        read_scan([tmp_path / "4d.nii.gz"], None, "MR")
