"""`nnunet-ima-attack` on DICOM series: the same numbers as on NIfTI, and nothing that tells the patient."""

from __future__ import annotations

import base64
import binascii
import gzip
import hashlib
import json
import re
import shutil
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pydicom
import pytest
from dicom_files import RAS, segmentation, series_of, uid_of, write

from nnunet_ima.commands.attack import main

QUICK = ["--attack", "fgsm", "--eps", "0.3", "--no-margins", "--no-tta", "--check-cases", "0"]
PATIENT = ("Doe^", "Doe_", "Johnny", "PID-4711", "4711-XY", "19700131")
CASES = ("left", "Doe_J_2")  # the second one tells the patient


@dataclass
class Scene:
    """Two cases as NIfTI, and as DICOM in a folder for each."""

    nifti: Path
    dicom: Path
    labels: Path
    output: Path
    temporary: Path

    def command(self, model: Path, *more: str, images: Path | None = None, labels: Path | None = None) -> list[str]:
        named = ["--model", str(model), "--images", str(images or self.dicom), "--labels", str(labels or self.labels)]
        return [*named, "--output", str(self.output), *QUICK, *more]

    def mixed(self) -> Path:
        """All files in one folder."""
        folder = self.dicom.with_name("mixed")
        folder.mkdir()
        for number, file in enumerate(sorted(self.dicom.rglob("IM_*"))):
            shutil.copy(file, folder / f"{number:05d}")
        return folder

    def segmentations(self) -> Path:
        """The labels as DICOM SEG."""
        folder = self.labels.with_name("seg")
        for name in CASES:
            label: Any = nib.load(self.labels / f"{name}.nii.gz")
            masks = np.asarray(label.dataobj).astype(np.uint8).transpose(2, 1, 0)
            segmentation(sorted((self.dicom / name).iterdir()), masks, ["Shell", "Core"], folder / f"{name}.dcm")
        return folder


def alias(name: str) -> str:
    return f"series-{hashlib.sha256(uid_of(name).encode()).hexdigest()[:10]}"


@pytest.fixture
def scene(phantom: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Scene:
    made = Scene(*(tmp_path / name for name in ("nifti", "dicom", "labels", "out", "temporary")))
    for folder in (made.nifti, made.labels, made.temporary):
        folder.mkdir()
    for name, file in zip(CASES, sorted((phantom.raw / "imagesTr").glob("*.nii.gz")), strict=False):
        source: Any = nib.load(file)
        whole = np.rint(np.asarray(source.dataobj)).astype(np.int16)
        nib.save(nib.Nifti1Image(whole, source.affine), made.nifti / f"{name}_0000.nii.gz")
        shutil.copy(phantom.raw / "labelsTr" / file.name.replace("_0000", ""), made.labels / f"{name}.nii.gz")
        origin = np.diag([-1.0, -1.0, 1.0]) @ source.affine[:3, 3]
        stored = (whole + 1024).astype(np.int16).transpose(2, 1, 0)
        write(series_of(stored, origin, RAS, np.diag(source.affine)[[2, 1, 0]], uid_of(name)), made.dicom / name)
    monkeypatch.setattr("tempfile.tempdir", str(made.temporary))
    return made


def refused(capsys: pytest.CaptureFixture[str], arguments: list[str]) -> str:
    """Run a command that ends with exit status 2; returns its last sentence."""
    capsys.readouterr()
    with pytest.raises(SystemExit) as stop:
        main(arguments)
    error = capsys.readouterr().err
    assert stop.value.code == 2
    assert "Traceback" not in error
    return error.strip().splitlines()[-1]


def dice(output: Path) -> dict[str, dict[str, float]]:
    """Dice of each measurement of each case, but for random noise, which depends on the case's name."""
    found: dict[str, dict[str, float]] = {}
    for file in sorted(output.glob("results/*/*/*.json")):
        content = json.loads(file.read_text())
        if "dice" in content and not file.stem.startswith("random"):
            found.setdefault(file.parent.name, {})[file.stem] = content["dice"]
    return found


def everything(folder: Path) -> bytes:
    """Names and contents of all files, also of what is compressed or in base64."""
    parts = []
    for file in sorted(folder.rglob("*")):
        parts.append(str(file.relative_to(folder)).encode())
        if not file.is_file():
            continue
        content = file.read_bytes()
        parts += [content, gzip.decompress(content) if file.suffix == ".gz" else b""]
        for packed in re.findall(rb"[A-Za-z0-9+/=]{40,}", content) if file.suffix in (".html", ".json") else []:
            try:
                inner = base64.b64decode(packed)
            except binascii.Error:  # a long word of a script
                continue
            parts += [inner, gzip.decompress(inner) if inner.startswith(b"\x1f\x8b") else b""]
    return b"\n".join(parts)


def check_private(content: bytes, *more: object) -> None:
    for word in (*PATIENT, *map(str, more)):
        assert word.lower().encode() not in content.lower()


@pytest.fixture
def unpublished(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """From its call on audits measure, and draw nothing."""
    return lambda: monkeypatch.setattr("nnunet_ima.report.publish.publish", lambda *_: "measured")


def test_an_audit_of_dicom_is_that_of_nifti_and_tells_nothing_about_the_patient(
    trained_model: Path,
    scene: Scene,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    unpublished: Callable[[], None],
) -> None:
    """A series that is refused does not stop the others; once it is whole, the same command goes on."""
    aside = (scene.dicom / "Doe_J_2" / "IM_0007").rename(scene.temporary.with_name("aside"))
    command = scene.command(trained_model)
    monkeypatch.setattr(sys, "argv", ["/bin/nnunet-ima-attack", *command])
    main(command)
    printed = capsys.readouterr()
    name = alias("Doe_J_2")
    assert f"{name}: {scene.dicom / 'Doe_J_2'}" in printed.err.splitlines()
    assert "NOT CONCLUSIVE" in printed.out
    assert "Cases that could not be measured" in printed.out
    assert "the slices are not evenly spaced: from 6.00 to 8.00 mm along the normal" in printed.out
    content = everything(scene.output)
    assert b"fgsm" in content
    check_private(content + printed.out.encode(), scene.dicom, scene.labels, scene.temporary)
    assert list(scene.temporary.iterdir()) == []
    manifest = json.loads((scene.output / "manifest.json").read_text())
    assert set(manifest["question"]["cases"]) == {"left", name}
    options = [word for word in command if word.startswith("--")]
    assert manifest["provenance"][0]["command"] == ["nnunet-ima-attack", *options]

    aside.rename(scene.dicom / "Doe_J_2" / "IM_0007")
    unpublished()
    main(command)
    found, first = dice(scene.output), scene.output
    scene.output = first.with_name("nifti_out")
    main(scene.command(trained_model, images=scene.nifti))
    expected = dice(scene.output)
    assert found == {"left": expected["left"], name: expected["Doe_J_2"]}
    assert len(found["left"]) >= 2
    check_private(everything(first), scene.dicom, scene.labels, scene.temporary)


def test_mixed_series_with_dicom_seg_go_on_where_they_were(
    trained_model: Path,
    scene: Scene,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    unpublished: Callable[[], None],
) -> None:
    unpublished()
    name, lock = alias("Doe_J_2"), scene.output.with_name("protocol.toml")
    mixed, labels = scene.mixed(), scene.segmentations()
    command = scene.command(trained_model, "--cases", name, images=mixed, labels=labels)
    main([*command, "--lock", str(lock)])
    assert not scene.output.exists()
    check_private(lock.read_bytes(), mixed, labels)
    capsys.readouterr()
    main([*command, "--protocol", str(lock)])
    told = capsys.readouterr().err.splitlines()
    for case in CASES:
        assert [line for line in told if line.startswith(f"{alias(case)}: SeriesInstanceUID {uid_of(case)}, 16 files")]
    check_private(everything(scene.output), mixed, labels, scene.temporary)
    with monkeypatch.context() as patch:
        patch.setattr("nnunet_ima.segmentation.target.Target.look", lambda *_: pytest.fail("measured again"))
        main([*command, "--protocol", str(lock)])
    found = dice(scene.output)
    scene.output = scene.output.with_name("nifti_out")
    main(scene.command(trained_model, "--cases", "Doe_J_2", images=scene.nifti))
    assert found == {name: dice(scene.output)["Doe_J_2"]}


def test_cases_are_chosen_by_the_names_that_are_told(
    trained_model: Path, scene: Scene, capsys: pytest.CaptureFixture[str]
) -> None:
    """Only those that are chosen are read."""
    (scene.dicom / "Doe_J_2" / "IM_0007").unlink()
    assert "the slices are not evenly spaced" in refused(capsys, scene.command(trained_model, "--limit", "1"))
    assert "holds no case Doe_J_2" in refused(capsys, scene.command(trained_model, "--cases", "Doe_J_2"))
    for chosen, number in ((["--cases", "left"], 1), ([], 2)):
        main(scene.command(trained_model, "--dry-run", *chosen))
        assert f"Measured on left, for {number} cases" in capsys.readouterr().out
    assert not scene.output.exists()


def test_faults_of_readable_series_name_no_folder(
    trained_model: Path, scene: Scene, capsys: pytest.CaptureFixture[str]
) -> None:
    command = scene.command(trained_model, "--cases", alias("Doe_J_2"))
    file = scene.labels / "Doe_J_2.nii.gz"
    label: Any = nib.load(file)
    nib.save(nib.Nifti1Image(np.full(label.shape, 9, np.uint8), label.affine), file)
    assert f"measured: {alias('Doe_J_2')}.nii.gz has label values 9" in refused(capsys, command)
    file.write_bytes(file.read_bytes()[:80])
    sentence = refused(capsys, command)
    assert f"measured: {alias('Doe_J_2')}.nii.gz cannot be read" in sentence
    check_private(sentence.encode(), scene.labels, scene.temporary)


def test_patients_are_in_the_files_that_these_tests_write(scene: Scene) -> None:
    data = pydicom.dcmread(scene.dicom / "left" / "IM_0000")
    assert (str(data.PatientName), data.PatientID) == ("Doe^Johnny", "PID-4711-XY")
