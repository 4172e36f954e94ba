"""DICOM files that an audit cannot work with: exit status 2, one sentence, nothing left behind."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from dicom_files import report, segmentation, series_of, uid_of, voxels, write

from nnunet_ima.commands.attack import main


@dataclass
class Scene:
    """What an audit is given; a spoiler changes it and returns words that the sentence must hold."""

    images: Path
    labels: Path
    output: Path
    temporary: Path


@pytest.fixture
def scene(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Scene:
    """Two cases, the folder of one of which tells its patient."""
    made = Scene(*(tmp_path / name for name in ("images", "labels", "out", "temporary")))
    made.labels.mkdir()
    made.temporary.mkdir()
    for name in ("a", "Doe 2"):
        write(series_of(voxels(), series=uid_of(name)), made.images / name)
        nib.save(nib.Nifti1Image(np.ones((10, 12, 5), np.uint8), np.eye(4)), made.labels / f"{name}.nii.gz")
    monkeypatch.setattr("tempfile.tempdir", str(made.temporary))
    return made


def every_series_is_cut(scene: Scene) -> str:
    for folder in scene.images.iterdir():
        (folder / "IM_0003").write_bytes((folder / "IM_0003").read_bytes()[:-30])
    return "no case could be measured: a file cannot be read: it is damaged or cut off"


def no_labels(scene: Scene) -> str:
    for file in scene.labels.iterdir():
        file.unlink()
    return "no case could be measured: it has no label"


def label_without_images(scene: Scene) -> str:
    (scene.labels / "a.nii.gz").rename(scene.labels / "right.nii.gz")
    return f"labels without an image: {scene.labels / 'right.nii.gz'}"


def labels_are_missing(scene: Scene) -> str:
    shutil.rmtree(scene.labels)
    return f"the folder {scene.labels} does not exist"


def report_as_label(scene: Scene) -> str:
    return f"{report(scene.labels / 'sr')} is no label but a structured report"


def seg_of_another_series(scene: Scene) -> str:
    sources = write(series_of(np.ones((2, 8, 8), np.int16), series=uid_of("other")), scene.labels.parent / "other")
    file = segmentation(sources, np.ones((2, 8, 8), np.uint8), ["shell"], scene.labels / "other.dcm")
    return f"labels without an image: {file}"


def files_beside_folders(scene: Scene) -> str:
    shutil.copy(next(scene.images.rglob("IM_0000")), scene.images)
    return f"{scene.images} holds both files (IM_0000, …) and folders"


def the_same_series_twice(scene: Scene) -> str:
    shutil.copytree(scene.images / "Doe 2", scene.images / "Doe 3")
    return "hold the same series; remove one of them"


def name_with_a_control_character(scene: Scene) -> str:
    (scene.images / "a").rename(scene.images / "a\x1b[2Jb")
    return "holds the name 'a\\x1b[2Jb'"


@pytest.mark.parametrize(
    "spoil",
    [
        every_series_is_cut,
        no_labels,
        label_without_images,
        labels_are_missing,
        report_as_label,
        seg_of_another_series,
        files_beside_folders,
        the_same_series_twice,
        name_with_a_control_character,
    ],
)
def test_what_cannot_be_audited_is_refused_in_one_sentence(
    spoil: Callable[[Scene], str], trained_model: Path, scene: Scene, capsys: pytest.CaptureFixture[str]
) -> None:
    """Beside it stand pseudonyms and files at fault, for the screen."""
    words = spoil(scene)
    named = ["--model", str(trained_model), "--images", str(scene.images), "--labels", str(scene.labels)]
    capsys.readouterr()
    with pytest.raises(SystemExit) as stop:
        main([*named, "--output", str(scene.output), "--attack", "fgsm", "--eps", "0.3", "--device", "cpu"])
    assert stop.value.code == 2
    *others, sentence = capsys.readouterr().err.splitlines()
    assert sentence.startswith("nnunet-ima-attack: ")
    assert words in sentence
    assert all(line.startswith(("series-", "a: look at", "file-")) for line in others)
    assert not scene.output.exists()
    assert list(scene.temporary.iterdir()) == []
