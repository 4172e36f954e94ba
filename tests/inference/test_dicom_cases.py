"""DICOM series and their labels as files of a model's format."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813
from dicom_files import segmentation, series_of, uid_of, voxels, write

from nnunet_ima.inference.cases import Case
from nnunet_ima.inference.dicom_cases import dicom_cases, write_cases


def model(channels: int = 1, ending: str = ".nii.gz", regions: bool = False) -> Any:
    info = {"file_ending": ending, "labels": {"background": 0, "shell": 1, "core": 2}}
    return SimpleNamespace(channels=channels, dataset_json=info, label_manager=SimpleNamespace(has_regions=regions))


@pytest.fixture
def channels(tmp_path: Path) -> dict[str, list[Path]]:
    """A case of two channels, the second of which lies a slice higher."""
    images = tmp_path / "images" / "a"
    return {
        "t1": write(series_of(voxels(), series=uid_of("t1")), images / "0000"),
        "t2": write(series_of(voxels(seed=1), (-20.0, 35.5, 101.0), series=uid_of("t2")), images / "0001"),
    }


@pytest.fixture
def labels(tmp_path: Path) -> Path:
    folder = tmp_path / "labels"
    folder.mkdir()
    return folder


def written(wanted: Any, tmp_path: Path, name: str = "written") -> Case:
    (tmp_path / name).mkdir()
    (case,) = write_cases(dicom_cases(tmp_path / "images", tmp_path / "labels", wanted), tmp_path / name, wanted)
    return case


@pytest.mark.parametrize("ending", [".nii.gz", ".nii", ".nrrd", ".mha"])
def test_every_channel_becomes_a_file(
    ending: str, channels: dict[str, list[Path]], labels: Path, tmp_path: Path
) -> None:
    """Without a word of the patient, and the same bits each time."""
    segmentation(channels["t2"], np.ones((5, 12, 10), np.uint8), ["Shell"], labels / "seg")
    first, second = (written(model(2, ending), tmp_path, name) for name in ("one", "two"))
    assert first.fault == ""
    assert [file.name for file in first.images] == [f"a_0000{ending}", f"a_0001{ending}"]
    for file, other in zip((*first.images, first.label), (*second.images, second.label), strict=True):
        assert file.read_bytes() == other.read_bytes()
        assert b"Doe" not in file.read_bytes()
    for file, seed in zip(first.images, (0, 1), strict=True):
        np.testing.assert_array_equal(sitk.GetArrayFromImage(sitk.ReadImage(str(file))), voxels(seed=seed) - 1024)
    assert sitk.ReadImage(str(first.label)).GetOrigin()[2] == 101  # on the channel that it refers to


def test_a_label_of_the_models_format_stays_where_it_is(
    channels: dict[str, list[Path]], labels: Path, tmp_path: Path
) -> None:
    (labels / "a.nii.gz").write_bytes(b"label")
    (labels / "notes.txt").write_bytes(b"no label")
    case = written(model(2), tmp_path)
    assert case.label.read_bytes() == b"label"
    assert case.label.parent == case.folder


def test_labels_that_are_not_one(channels: dict[str, list[Path]], labels: Path, tmp_path: Path) -> None:
    """A case with a fault has a file that says it, whose hash is that of the fault."""
    case = written(model(2), tmp_path, "none")
    assert "it has no label" in case.fault
    assert case.images[0].read_text().strip() == case.fault
    for number, files in enumerate(channels.values()):
        segmentation(files, np.ones((5, 12, 10), np.uint8), ["shell"], labels / f"seg{number}")
    assert "2 labels belong to it" in written(model(2), tmp_path, "several").fault
    (labels / "seg1").unlink()
    assert "the model's labels are regions" in written(model(2, regions=True), tmp_path, "regions").fault


def test_formats_that_hold_no_volume(channels: dict[str, list[Path]], labels: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"this one wants \.png"):
        written(model(2, ".png"), tmp_path)
