"""Folders, names and files that an audit cannot work with: exit status 2, one sentence, nothing else touched."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest

from nnunet_ima.commands import attack, demo
from nnunet_ima.segmentation.case_audit import CaseAudit

QUICK = ["--attack", "fgsm", "--eps", "0.3", "--no-margins", "--no-tta", "--check-cases", "0", "--device", "cpu"]


@dataclass
class Scene:
    """What an audit is given; a spoiler changes it and returns words that the sentence must hold."""

    model: Path
    images: Path
    labels: Path
    output: Path
    raw: Path
    splits: Path
    patch: pytest.MonkeyPatch

    def __post_init__(self) -> None:
        self.own_cases = True
        self.more: list[str] = []

    def command(self) -> list[str]:
        own = ["--images", str(self.images), "--labels", str(self.labels)] if self.own_cases else []
        return ["--model", str(self.model), *own, *QUICK, "--output", str(self.output), *self.more]

    def image(self) -> Path:
        return sorted(self.images.iterdir())[0]


@pytest.fixture
def scene(trained_model: Path, phantom: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Scene:
    """Two cases in folders of their own, and a data set in nnU-Net's folders, which holds two, too."""
    raw, preprocessed = tmp_path / "raw" / phantom.name, tmp_path / "preprocessed" / phantom.name
    preprocessed.mkdir(parents=True)
    for folder in ("imagesTr", "labelsTr"):
        (raw / folder).mkdir(parents=True)
        for file in sorted((phantom.raw / folder).glob("*.nii.gz"))[:2]:
            shutil.copy(file, raw / folder)
    shutil.copy(phantom.raw / "dataset.json", raw)
    monkeypatch.setenv("nnUNet_raw", str(raw.parent))
    monkeypatch.setenv("nnUNet_preprocessed", str(preprocessed.parent))
    images, labels = (Path(shutil.copytree(raw / name, tmp_path / name)) for name in ("imagesTr", "labelsTr"))
    (tmp_path / "deep").mkdir()
    splits = preprocessed / "splits_final.json"
    return Scene(trained_model, images, labels, tmp_path / "deep" / "out", raw, splits, monkeypatch)


def sentence(capsys: pytest.CaptureFixture[str], main: Callable[[list[str]], None], arguments: list[str]) -> str:
    """Run a command that must end with exit status 2; returns its one line."""
    with pytest.raises(SystemExit) as stop:
        main(arguments)
    error = capsys.readouterr().err
    assert stop.value.code == 2
    assert "Traceback" not in error
    lines = [line for line in error.replace("\r", "\n").splitlines() if line.strip() and "measurement" not in line]
    (line,) = lines  # beside the progress
    assert line.startswith("nnunet-ima-")
    return line


def manifest(content: str) -> Callable[[Scene], str]:
    def spoil(scene: Scene) -> str:
        scene.output.mkdir()
        (scene.output / "manifest.json").write_text(content)
        return str(scene.output / "manifest.json")

    return spoil


def name_in_dataset_json(name: str) -> Callable[[Scene], str]:
    def spoil(scene: Scene) -> str:
        entry = {"images": [str(scene.image())], "label": str(sorted(scene.labels.iterdir())[0])}
        content = json.loads((scene.raw / "dataset.json").read_text()) | {"dataset": {name: entry}}
        (scene.raw / "dataset.json").write_text(json.dumps(content))
        scene.own_cases, scene.more = False, ["--allow-training-cases"]
        return f"{scene.raw / 'dataset.json'} holds the name {name!r}"

    return spoil


def dataset_json(change: dict[str, Any]) -> Callable[[Scene], str]:
    def spoil(scene: Scene) -> str:
        content = json.loads((scene.raw / "dataset.json").read_text()) | change
        (scene.raw / "dataset.json").write_text(json.dumps(content))
        scene.own_cases, scene.more = False, ["--allow-training-cases"]
        return str(scene.raw / "dataset.json")

    return spoil


def splits(content: Any) -> Callable[[Scene], str]:
    def spoil(scene: Scene) -> str:
        scene.splits.write_text(json.dumps(content))
        scene.own_cases = False
        return str(scene.splits)

    return spoil


def name_of_a_file(name: str) -> Callable[[Scene], str]:
    def spoil(scene: Scene) -> str:
        for folder, ending in ((scene.images, "_0000.nii.gz"), (scene.labels, ".nii.gz")):
            file = sorted(folder.iterdir())[0]
            file.rename(folder / f"{name}{ending}")
        return f"holds the name {name!r}"

    return spoil


def name_on_the_command_line(scene: Scene) -> str:
    scene.more = ["--cases", "../../ESCAPED"]
    return "--cases holds the name '../../ESCAPED'"


def link_out_of_the_folder(scene: Scene) -> str:
    elsewhere, original = scene.raw.parent / "elsewhere", CaseAudit.clean
    elsewhere.mkdir()

    def linked(self: CaseAudit) -> Any:
        (scene.output / "images").symlink_to(elsewhere)
        return original(self)

    scene.patch.setattr(CaseAudit, "clean", linked)
    return f"leads out of the audit's folder, to {elsewhere}"


def level_beside_those_measured(scene: Scene) -> str:
    scene.more = ["--require", "0.999@0.3000000001"]
    return "--require 0.999@0.3000000001: 0.3000000001 is not among the noise levels (0.3)"


def voxel(value: float) -> Callable[[Scene], str]:
    def spoil(scene: Scene) -> str:
        for file in scene.images.iterdir():
            image: Any = nib.load(file)
            voxels = np.asarray(image.dataobj).astype(np.float64)
            voxels[3, 3, 3] = value
            nib.save(nib.Nifti1Image(voxels, image.affine), file)
        return str(scene.image())

    return spoil


def folder_deleted_half_way(scene: Scene) -> str:
    original = CaseAudit.component

    def deleted(self: CaseAudit, *arguments: Any) -> Any:
        found = original(self, *arguments)
        shutil.rmtree(scene.output)
        return found

    scene.patch.setattr(CaseAudit, "component", deleted)
    return str(scene.output)


def images_deleted_at_the_end(scene: Scene) -> str:
    original = CaseAudit.finish

    def deleted(self: CaseAudit) -> None:
        shutil.rmtree(scene.output / "images")
        original(self)

    scene.patch.setattr(CaseAudit, "finish", deleted)
    return str(scene.output / "images")


def link_in_a_circle(scene: Scene) -> str:
    file = scene.images / "phantom_999_0000.nii.gz"
    file.symlink_to(file)
    return f"{file} is a link that leads nowhere"


def link_to_nothing(scene: Scene) -> str:
    file = scene.labels / "phantom_999.nii.gz"
    file.symlink_to(scene.labels / "gone.nii.gz")
    return f"{file} is a link that leads nowhere"


def output_is_a_file(scene: Scene) -> str:
    scene.output.write_text("precious")
    return f"{scene.output} is no folder"


def output_below_a_file(scene: Scene) -> str:
    scene.output.write_text("precious")
    scene.output = scene.output / "folder"
    return f"{scene.output.parent} is no folder"


def output_not_writable(scene: Scene) -> str:
    """For root, everything is."""
    scene.patch.setattr("os.access", lambda *_: False)
    return f"{scene.output.parent} cannot be written to"


def output_on_a_file_system_of_its_own(scene: Scene) -> str:
    scene.output = Path("/proc/audit")
    return "/proc/audit"


SPOILED = {
    "damaged manifest": manifest('{"question": '),
    "manifest without end": manifest("[" * 99999),
    "manifest is a list": manifest("[]"),
    "question is a list": manifest('{"question": [], "provenance": []}'),
    "provenance is no list": manifest('{"question": {}, "provenance": {}}'),
    "manifest of an earlier release": manifest('{"question": {}, "provenance": []}'),
    "manifest of a later release": manifest('{"schema": 99, "question": {}, "provenance": []}'),
    "case leads out of the folder": name_in_dataset_json("../../../../ESCAPED"),
    "case is a path": name_in_dataset_json("/ESCAPED"),
    "case has no name": name_in_dataset_json(""),
    "case on several lines": name_in_dataset_json("a\nb"),
    "data set is a list": dataset_json({"dataset": []}),
    "data set without files": dataset_json({"dataset": {"a": {}}}),
    "no ending": dataset_json({"file_ending": 5}),
    "split leads out of the folder": splits([{"train": ["a"], "val": ["../../ESCAPED"]}]),
    "split is no list": splits({"train": [], "val": []}),
    "split without validation": splits([{"train": ["a"]}]),
    "file with a backslash": name_of_a_file("a\\b"),
    "file with a control character": name_of_a_file("a\x1b[2Jb"),
    "name on the command line": name_on_the_command_line,
    "link out of the folder": link_out_of_the_folder,
    "level beside those measured": level_beside_those_measured,
    "voxels beyond float32": voxel(1e300),
    "voxels beyond what can be normalised": voxel(3e38),
    "folder deleted half-way": folder_deleted_half_way,
    "images deleted at the end": images_deleted_at_the_end,
    "link in a circle": link_in_a_circle,
    "link to nothing": link_to_nothing,
    "output is a file": output_is_a_file,
    "output below a file": output_below_a_file,
    "output not writable": output_not_writable,
    "output in /proc": output_on_a_file_system_of_its_own,
}


@pytest.mark.parametrize("spoil", SPOILED.values(), ids=SPOILED.keys())
def test_an_audit_is_refused_in_one_sentence(
    spoil: Callable[[Scene], str], scene: Scene, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    precious = [tmp_path / "ESCAPED" / "precious.txt", tmp_path / "deep" / "ESCAPED" / "precious.txt"]
    for file in precious:
        file.parent.mkdir()
        file.write_text("precious")
    words = spoil(scene)
    capsys.readouterr()
    assert words in sentence(capsys, attack.main, scene.command())
    assert [file.read_text() for file in precious] == ["precious"] * 2
    assert not list(scene.output.parent.glob("out/.stored-*"))


def test_levels_that_print_alike_are_gated_apart(scene: Scene, capsys: pytest.CaptureFixture[str]) -> None:
    scene.more = ["--eps", "0.3", "0.3000000001", "--require", "0.999@0.3000000001"]
    with pytest.raises(SystemExit) as stop:
        attack.main(scene.command())
    assert stop.value.code == 1
    assert "at ε = 0.3000000001, below 0.999" in capsys.readouterr().out


def test_an_audit_of_nothing_claims_nothing(scene: Scene, capsys: pytest.CaptureFixture[str]) -> None:
    """After the repair, the same command works."""
    whole = {file: file.read_bytes() for file in scene.images.iterdir()}
    for file in whole:
        file.write_bytes(whole[file][:100])
    assert "no case could be measured" in sentence(capsys, attack.main, scene.command())
    assert not scene.output.exists()
    for file, content in whole.items():
        file.write_bytes(content)

    def unreadable(*_: Any) -> None:
        raise RuntimeError("nnU-Net cannot read it")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("nnunet_ima.inference.volumes.read_volume", unreadable)
        with pytest.raises(SystemExit):
            attack.main(scene.command())
    assert "cannot be read: nnU-Net cannot read it" in capsys.readouterr().err.splitlines()[-1]
    assert list(scene.output.iterdir()) == []
    attack.main(scene.command())
    assert (scene.output / "report.md").is_file()


def test_a_case_is_repaired_after_the_others_were_measured(scene: Scene, capsys: pytest.CaptureFixture[str]) -> None:
    content = scene.image().read_bytes()
    scene.image().write_bytes(content[:100])
    attack.main(scene.command())
    assert "Cases that could not be measured" in capsys.readouterr().out
    scene.image().write_bytes(content)
    attack.main(scene.command())
    assert "Cases that could not be measured" not in capsys.readouterr().out
    image: Any = nib.load(scene.image())
    nib.save(nib.Nifti1Image(np.asarray(image.dataobj) + 1, image.affine), scene.image())
    assert "an audit with other cases" in sentence(capsys, attack.main, scene.command())


def test_a_damaged_result_is_measured_again(scene: Scene, capsys: pytest.CaptureFixture[str]) -> None:
    attack.main(scene.command())
    summary = (scene.output / "summary.json").read_bytes()
    printed = capsys.readouterr().out
    file = next(scene.output.glob("results/*/*/fgsm@0.3.json"))
    file.write_text('{"dice": 0.')
    attack.main(scene.command())
    found = capsys.readouterr()
    assert f"{file} is damaged; it is measured again" in found.err
    assert found.out == printed
    assert (scene.output / "summary.json").read_bytes() == summary


def test_cases_that_a_spreadsheet_would_compute(scene: Scene, capsys: pytest.CaptureFixture[str]) -> None:
    name_of_a_file("=1+1")(scene)
    attack.main(scene.command())
    cases = (scene.output / "cases.csv").read_text()
    assert ",'=1+1," in cases
    assert ",=1+1" not in cases
    assert (scene.output / "results" / scene.model.name / "=1+1").is_dir()


def foreign_files(folder: Path) -> str:
    folder.mkdir()
    (folder / "thesis.txt").write_text("precious")
    return f"{folder} holds other files"


def nnunets_home(folder: Path) -> str:
    """Laid out as that of a demo, but with data of one's own."""
    (folder / "nnUNet_raw" / "Dataset004_Hippocampus").mkdir(parents=True)
    return f"{folder} holds other files"


def demo_is_a_file(folder: Path) -> str:
    folder.write_text("precious")
    return f"{folder} is no folder"


@pytest.mark.parametrize("spoil", [foreign_files, nnunets_home, demo_is_a_file])
def test_a_demo_takes_no_foreign_folder(
    spoil: Callable[[Path], str], tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(demo, "prepare_phantom", lambda *_, **__: pytest.fail("work was done"))
    words = spoil(tmp_path / "demo")
    before = sorted(tmp_path.rglob("*"))
    assert words in sentence(capsys, demo.main, ["--output", str(tmp_path / "demo")])
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize("marked", [True, False])
def test_a_demo_takes_the_folder_of_an_earlier_one(
    marked: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Release 0.1 left no mark, but nothing beside its own files."""

    def prepared(*_: Any, **__: Any) -> None:
        raise ValueError("as far as that")

    for variable in ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results"):
        monkeypatch.setenv(variable, "")  # the demo sets them
        (tmp_path / variable / "Dataset999_Phantom").mkdir(parents=True)
    (tmp_path / "table.md").write_text("| model |")
    if marked:
        (tmp_path / ".nnunet-ima-demo").write_text("")
        (tmp_path / "notes.txt").write_text("mine")
    monkeypatch.setattr(demo, "prepare_phantom", prepared)
    with pytest.raises(ValueError, match="as far as that"):
        demo.Demo(output=tmp_path).run()
    assert (tmp_path / ".nnunet-ima-demo").is_file()
