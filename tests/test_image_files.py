"""Images are whole: half a file, which SimpleITK writes and reads without a word, is told."""

from __future__ import annotations

import os
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813
from full_disk import no_file_beyond

from nnunet_ima.image_files import check_whole, written_image
from nnunet_ima.shift.scan import Scan
from nnunet_ima.shift.scan_files import write_scan

VOXELS = np.random.default_rng(0).random((8, 20, 20), np.float32)


def write(file: Path, size: int = 10**9) -> None:
    scratch = file.parent / "scratch"
    scratch.mkdir()
    try:
        with no_file_beyond(size), written_image(file, scratch) as part:
            sitk.WriteImage(sitk.GetImageFromArray(VOXELS), str(part), True)
            part.with_suffix(".json").write_text("{}")  # as nnU-Net does beside a TIFF
    finally:
        for left in scratch.iterdir():
            left.unlink()
        scratch.rmdir()


@pytest.mark.parametrize("ending", [".nii.gz", ".nii", ".nrrd", ".mha"])
def test_a_full_disk_leaves_the_former_image(ending: str, tmp_path: Path) -> None:
    file = tmp_path / f"clean{ending}"
    write(file)
    assert len(list(tmp_path.iterdir())) == 2
    assert np.array_equal(sitk.GetArrayFromImage(sitk.ReadImage(str(file))), VOXELS)
    whole = file.read_bytes()
    with pytest.raises(OSError, match=f"clean{ending}.* (is not whole|cannot be written)"):
        write(file, 1000)
    assert file.read_bytes() == whole


@pytest.mark.parametrize("ending", [".nii.gz", ".nii"])
def test_half_a_file_is_told(ending: str, tmp_path: Path) -> None:
    file = tmp_path / f"a{ending}"
    nib.save(nib.Nifti1Image(VOXELS, np.eye(4)), file)
    check_whole(file)
    content = file.read_bytes()
    for part in (content[:-1], content[:1000], content[:100], b""):
        file.write_bytes(part)
        with pytest.raises(OSError, match=rf"a{ending} is not whole \(.*\); is its disk full"):
            check_whole(file)
    if ending == ".nii.gz":
        file.write_bytes(content[:5000] + bytes([content[5000] ^ 1]) + content[5001:])
        with pytest.raises(OSError, match="is not whole"):
            check_whole(file)


def test_what_a_library_leaves_unsaid_is_told_of_a_scan(tmp_path: Path) -> None:
    """Its Dice would be that of half a scan, and stored as a result."""
    scan = Scan(VOXELS[None], np.zeros(VOXELS.shape, np.int16), np.eye(4))
    with no_file_beyond(1000), pytest.raises(OSError, match=r"a_0000.nii.gz is not whole"):
        write_scan(scan, [tmp_path / "a_0000.nii.gz"], tmp_path / "a.nii.gz")
    os.unlink(tmp_path / "a_0000.nii.gz")
    write_scan(scan, [tmp_path / "a_0000.nii.gz"], tmp_path / "a.nii.gz")
