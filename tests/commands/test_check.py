"""`nnunet-ima-check` on phantoms."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest

from nnunet_ima.commands import check
from nnunet_ima.commands.check import main
from nnunet_ima.shift import likeness


@pytest.fixture
def model(trained_model: Path, tmp_path: Path) -> Path:
    """A model's folder that may be written into."""
    shutil.copytree(trained_model, tmp_path / "model")
    return tmp_path / "model"


@pytest.fixture
def images(phantom: Any, tmp_path: Path) -> Path:
    """A scan of the training set, and one with spacings that it does not have."""
    folder = tmp_path / "images"
    folder.mkdir()
    first = min((phantom.raw / "imagesTr").glob("*.nii.gz"))
    shutil.copy(first, folder / "alike_0000.nii.gz")
    image = nib.load(first)
    nib.save(
        nib.Nifti1Image(image.get_fdata().astype(np.float32), np.diag([1, 1, 9, 1.0])), folder / "thick_0000.nii.gz"
    )
    return folder


def test_learn_then_compare(
    model: Path, images: Path, tmp_path: Path, capsys: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(likeness, "LEAST", 3)  # the phantom data set is small
    main(["--model", str(model), "--learn"])
    told = capsys.readouterr().out
    assert "scans of modality MR; a new one of the same kind exceeds the threshold" in told
    learnt = json.loads((model / likeness.FILE).read_text())
    assert learnt["scans"] < 8  # validation cases are left out
    with pytest.raises(SystemExit) as stop:
        main([str(images), "--model", str(model), "--output", str(tmp_path / "found.csv")])
    assert stop.value.code == 1
    told = capsys.readouterr().out
    assert "thick: UNLIKE the training scans: " in told
    assert "spacing across slices" in told
    rows = {row["case"]: row for row in csv.DictReader((tmp_path / "found.csv").open())}
    assert rows["thick"]["unlike"] == "True"
    (images / "thick_0000.nii.gz").unlink()
    learnt["threshold"] = 1e6
    (model / likeness.FILE).write_text(json.dumps(learnt))
    main([str(images), "--model", str(model)])
    assert capsys.readouterr().out == "alike: alike\n"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "name a folder of images to compare, or --learn"),
        (["IMAGES", "--learn"], "one of them"),
        (["IMAGES"], "learn it with nnunet-ima-check --learn"),
        (["/nowhere"], "learn it with nnunet-ima-check --learn"),
    ],
)
def test_wrong_input(model: Path, images: Path, capsys: Any, arguments: list[str], message: str) -> None:
    given = [str(images) if argument == "IMAGES" else argument for argument in arguments]
    with pytest.raises(SystemExit) as stop:
        main([*given, "--model", str(model)])
    assert stop.value.code == 2
    assert message in capsys.readouterr().err


def test_damaged_files_end_in_a_sentence(
    model: Path, images: Path, capsys: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(likeness, "LEAST", 3)
    main(["--model", str(model), "--learn"])
    (images / "alike_0000.nii.gz").write_bytes(b"no image")
    for damage, message in (("", "alike_0000.nii.gz cannot be read: "), ("[]", "dataset.json names no file_ending")):
        if damage:
            (model / "dataset.json").write_text(damage)
        capsys.readouterr()
        with pytest.raises(SystemExit) as stop:
            main([str(images), "--model", str(model)])
        assert stop.value.code == 2
        assert message in capsys.readouterr().err


def test_a_folder_that_is_no_model_is_named(model: Path, capsys: Any) -> None:
    plans = json.loads((model / "plans.json").read_text())
    del plans["dataset_name"]
    (model / "plans.json").write_text(json.dumps(plans))
    with pytest.raises(SystemExit) as stop:
        main(["--model", str(model), "--learn"])
    assert stop.value.code == 2
    assert "dataset_name" in capsys.readouterr().err


def test_images_must_be_complete(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"holds no image named CASE_0000.nii.gz"):
        list(check._scans(tmp_path, ".nii.gz", 1))
    (tmp_path / "a_0000.nii.gz").touch()
    with pytest.raises(ValueError, match=r"a has 1 channels in .*, the model wants 2"):
        list(check._scans(tmp_path, ".nii.gz", 2))


def test_ct_is_known_by_its_channel() -> None:
    assert check._modality({"channel_names": {"0": "CT"}}) == "CT"
    assert check._modality({"channel_names": {"0": "T2"}}) == "MR"
