"""DICOM SEG as label maps on the voxels of the images they were made on."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
import SimpleITK as sitk  # noqa: N813
from dicom_files import OBLIQUE, report, segmentation, series_of, uid_of, voxels, write

from nnunet_ima.datasets.dicom.headers import DicomError, read_header
from nnunet_ima.datasets.dicom.seg import read_seg, referenced_series
from nnunet_ima.datasets.dicom.series import read_series

LABELS = {"background": 0, "shell": 1, "Core zone": 7}
SPACING = (2.5, 0.7, 0.9)


@pytest.fixture
def series(tmp_path: Path) -> list[Path]:
    """Five oblique slices."""
    return write(series_of(voxels(), orientation=OBLIQUE, spacing=SPACING), tmp_path / "series")


@pytest.fixture
def masks() -> np.ndarray[Any, Any]:
    """Two segments on three of five slices."""
    found = np.zeros((5, 12, 10), np.uint8)
    found[1:3, 4:9, 5:8] = 1
    found[4, 2:4, 0:5] = 2
    return found


def image(files: Sequence[Path]) -> sitk.Image:
    return read_series([read_header(file) for file in files])


@pytest.mark.parametrize("kind", ["BINARY", "LABELMAP"])
@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("omit", [False, True])
def test_segments_become_the_labels_of_their_names(
    kind: str, reverse: bool, omit: bool, series: list[Path], masks: Any, tmp_path: Path
) -> None:
    """On the image's voxels, whatever the order of its files; empty frames may be left out."""
    sources = series[::-1] if reverse else series
    names = ["SHELL ", "core Zone"]
    file = segmentation(
        sources, masks[::-1] if reverse else masks, names, tmp_path / "seg", kind, omit_empty_frames=omit
    )
    found = read_seg(file, image(series), LABELS)
    np.testing.assert_array_equal(sitk.GetArrayFromImage(found), np.array([0, 1, 7])[masks])
    assert found.GetDirection() == image(series).GetDirection()
    assert found.GetOrigin() == image(series).GetOrigin()
    assert referenced_series(file) == {uid_of("series")}


def test_a_seg_of_one_frame(series: list[Path], tmp_path: Path) -> None:
    masks = np.zeros((5, 12, 10), np.uint8)
    masks[3, 4:9, 5:8] = 1
    file = segmentation(series, masks, ["shell"], tmp_path / "seg")
    data = pydicom.dcmread(file)
    del data.SharedFunctionalGroupsSequence[0].PixelMeasuresSequence[0].SpacingBetweenSlices
    data.save_as(file)
    np.testing.assert_array_equal(sitk.GetArrayFromImage(read_seg(file, image(series), LABELS)), masks)


def test_several_segments_of_one_label(series: list[Path], tmp_path: Path) -> None:
    """As with single lesions, which may overlap."""
    masks = np.zeros((5, 12, 10, 2), np.uint8)
    masks[1, 4:8, 5:8, 0] = masks[1, 6:10, 5:8, 1] = 1
    file = segmentation(series, masks, ["shell", "Shell"], tmp_path / "seg")
    np.testing.assert_array_equal(sitk.GetArrayFromImage(read_seg(file, image(series), LABELS)), masks.any(-1))


def test_names_that_no_label_has(series: list[Path], masks: Any, tmp_path: Path) -> None:
    """Both lists are told, but no segment that is named after the patient."""
    file = segmentation(series, masks, ["shell", "Johnny's core"], tmp_path / "seg")
    with pytest.raises(DicomError, match=r"\(shell, \(hidden\)\) are not .* \(background, shell, Core zone\)"):
        read_seg(file, image(series), LABELS, frozenset({"johnny"}))


def overlap(series: list[Path], masks: Any, file: Path) -> None:
    segmentation(series, np.stack([masks > 0, masks > 1], -1).astype(np.uint8), ["shell", "core zone"], file)


def fractions(series: list[Path], masks: Any, file: Path) -> None:
    segmentation(series, (masks == 1) * 0.5, ["shell"], file, "FRACTIONAL")


def shifted(series: list[Path], masks: Any, file: Path) -> None:
    """By half a voxel."""
    moved = write(series_of(voxels(), (-19.6, 35.5, 100.0), OBLIQUE, SPACING), file.parent / "moved")
    segmentation(moved, masks, ["shell", "core zone"], file)


def beyond(series: list[Path], masks: Any, file: Path) -> None:
    """Made on a longer series."""
    longer = series_of(voxels((7, 12, 10)), orientation=OBLIQUE, spacing=SPACING)
    segmentation(write(longer, file.parent / "longer"), np.ones((7, 12, 10), np.uint8), ["shell"], file)


def coarser(series: list[Path], masks: Any, file: Path) -> None:
    """Every voxel twice as large."""
    spacing = tuple(2 * value for value in SPACING)
    coarse = series_of(voxels((2, 6, 5)), orientation=OBLIQUE, spacing=spacing)
    segmentation(write(coarse, file.parent / "coarse"), np.ones((2, 6, 5), np.uint8), ["shell"], file)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (overlap, "segments of different labels overlap"),
        (fractions, "holds fractions"),
        (shifted, "lies on other voxels"),
        (beyond, "reaches beyond its image"),
        (coarser, "lies on other voxels"),
    ],
)
def test_what_is_no_label_map_of_the_image_is_refused(
    make: Any, words: str, series: list[Path], masks: Any, tmp_path: Path
) -> None:
    make(series, masks, tmp_path / "seg")
    with pytest.raises(DicomError, match=words) as error:
        read_seg(tmp_path / "seg", image(series), LABELS)
    assert str(tmp_path) not in str(error.value)
    assert error.value.files == (tmp_path / "seg",)


def test_files_that_are_no_seg(series: list[Path], masks: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match="IM_0000 is no label but an image"):
        referenced_series(series[0])
    with pytest.raises(ValueError, match="sr is no label but a structured report"):
        referenced_series(report(tmp_path / "sr"))
    file = segmentation(series, masks, ["shell", "core zone"], tmp_path / "seg")
    content = file.read_bytes()
    file.write_bytes(content[:500])
    with pytest.raises(ValueError, match="seg is a DICOM SEG that cannot be read"):
        referenced_series(file)
    file.write_bytes(content)
    monkeypatch.setitem(sys.modules, "highdicom", None)
    with pytest.raises(ValueError, match=r'pip install "nnunet-ima\[dicom\]"'):
        referenced_series(file)
