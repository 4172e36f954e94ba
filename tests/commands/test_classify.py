"""`nnunet-ima-classify`: from a folder of images to classifiers, a comparison and predictions."""

from __future__ import annotations

import csv
import io
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813
import torch

from nnunet_ima.classification import settings as settings_module
from nnunet_ima.classification.networks import load_classifier
from nnunet_ima.classification.settings import load_plan
from nnunet_ima.commands import classify
from nnunet_ima.commands import compare as compare_command
from nnunet_ima.datasets.tasks import plans_folder
from nnunet_ima.inference.model import open_model

SMALL = ("epochs=6", "batch_size=8", "learning_rate=0.01", "robust_images=8", "robust_steps=3", "robust_eps=0.5")
METHODS = ("ce", "ima1", "adv0.5")
AUDIT = {"pgd_steps": 10, "apgd_steps": 10, "square_queries": 10, "spsa_samples": 8, "spsa_steps": 3, "spsa_images": 2}


def write_image(file: Path, label: int, seed: int) -> None:
    """A noisy slice; those of class 1 have a fine pattern besides."""
    rng = np.random.default_rng(seed)
    pixels = 100 + 25 * rng.random((32, 32))
    pixels += 50 * label * ((np.arange(32)[:, None] + np.arange(32)) % 2)
    file.parent.mkdir(parents=True, exist_ok=True)
    sitk.WriteImage(sitk.GetImageFromArray(pixels.astype(np.uint8)), str(file))


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder per class with 40 images each."""
    folder = tmp_path_factory.mktemp("images")
    for number in range(80):
        write_image(folder / ("COVID", "other")[number % 2] / f"{number:02d}.png", number % 2, number)
    return folder


@pytest.fixture(autouse=True)
def small_plan(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """The packaged plan with an audit that takes no time."""
    plan = load_plan()
    plan["presets"]["cpu"]["size"] = 32
    plan["presets"]["cpu"]["snapshot_interval"] = 3
    plan["presets"]["cpu"]["audit"] |= AUDIT | {"images": 12, "eps": {"L2": [0.5, 2], "Linf": [0.01]}}
    folder = tmp_path_factory.mktemp("plans")
    shutil.copytree(plans_folder(), folder, dirs_exist_ok=True)
    (folder / "covid.json").write_text(json.dumps(plan))
    monkeypatch.setattr(settings_module, "plans_folder", lambda: folder)


def compare(images: Path, output: Path, *more: str, methods: tuple[str, ...] = METHODS) -> None:
    arguments = ["compare", "--data", str(images), "--output", str(output), "--device", "cpu", "--set", *SMALL]
    classify.main([*arguments, "--methods", *methods, *more])


@pytest.fixture(scope="module")
def output(images: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where a comparison is put by the first test that wants it."""
    return tmp_path_factory.mktemp("covid") / "out"


def files_of(folder: Path) -> dict[str, bytes]:
    return {str(file.relative_to(folder)): file.read_bytes() for file in sorted(folder.rglob("*")) if file.is_file()}


def summary_of(output: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((output / "audit" / "summary.json").read_text())
    return content


def test_compare_trains_audits_and_chooses(images: Path, output: Path, capsys: pytest.CaptureFixture[str]) -> None:
    compare(images, output)
    printed = capsys.readouterr().out
    assert "patients are not known" in printed
    assert "Which defence to take" in printed
    assert all(name in printed for name in METHODS)
    assert "sensitivity" in printed
    names = {path.name for path in (output / "audit").iterdir()}
    assert {"report.md", "summary.json", "summary.csv", "cases.csv", "accuracy.png", "example.png"} <= names
    summary = summary_of(output)
    assert [model["model"] for model in summary["models"]] == list(METHODS)
    assert summary["positive"] == "COVID"
    assert summary["images"] == 12
    clean = {row["model"]: row["accuracy"]["value"] for row in summary["rows"] if row["eps"] == 0}
    assert min(clean.values()) >= 0.5
    by_level = [row["accuracy"]["value"] for row in summary["rows"] if row["model"] == "ima1"]
    assert by_level == sorted(by_level, reverse=True)


def test_the_methods_stand_side_by_side(images: Path, output: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """As nnunet-ima-compare shows them, too: it is the same comparison."""
    before = files_of(output / "audit" / "results")
    arguments = ["--data", str(images), "--output", str(output), "--device", "cpu", "--set", *SMALL]
    compare_command.main([*arguments, "--methods", *METHODS])
    assert files_of(output / "audit" / "results") == before
    text = (output / "comparison.md").read_text()
    assert text.strip() in capsys.readouterr().out
    lines = text.splitlines()
    assert lines[0] == "| defence | worst attack, ε = 0 | worst attack, ε = 0.5 | worst attack, ε = 2 | |"
    accuracy = {(row["model"], row["eps"]): row["accuracy"]["value"] for row in summary_of(output)["rows"]}
    for line, method in zip(lines[2:], METHODS, strict=False):
        name, *cells, note, _ = (cell.strip(" *") for cell in line.split("|")[1:])
        assert name == method
        assert [float(cell) for cell in cells] == [
            pytest.approx(accuracy[method, eps], abs=6e-4) for eps in (0.0, 0.5, 2.0)
        ]
        assert note.startswith("6 epochs")
    assert "keeps most" in text
    assert "(mean accuracy over 12 images, 95 % intervals)" in text
    assert (output / "comparison.png").stat().st_size > 0


def test_the_test_images_were_not_trained_on(output: Path) -> None:
    splits = json.loads((output / "splits.json").read_text())
    with (output / "audit" / "cases.csv").open(newline="") as stream:
        audited = {row["id"] for row in csv.DictReader(stream)}
    assert audited <= set(splits["test"])
    assert not audited & set(splits["train"])
    assert not audited & set(splits["validation"])


def test_the_same_command_again_measures_nothing_anew(images: Path, output: Path) -> None:
    before = files_of(output)
    stamps = {file: file.stat().st_mtime_ns for file in (output / "audit" / "results").rglob("*.json")}
    compare(images, output)
    assert {file: file.stat().st_mtime_ns for file in stamps} == stamps
    same = [name for name in before if name.endswith((".json", ".csv", ".pt", ".md")) and "manifest" not in name]
    after = files_of(output)
    assert {name: after[name] for name in same} == {name: before[name] for name in same}


def test_a_further_method_joins(images: Path, output: Path) -> None:
    before = summary_of(output)
    compare(images, output, methods=("ce", "trades0.5"))
    after = summary_of(output)
    assert [model["model"] for model in after["models"]] == ["ce", "trades0.5"]
    assert [row for row in after["rows"] if row["model"] == "ce"] == [
        row for row in before["rows"] if row["model"] == "ce"
    ]


def test_the_same_classifiers_in_another_norm(images: Path, output: Path) -> None:
    before = files_of(output / "audit")
    compare(images, output, "--norm", "Linf", "--limit", "4", methods=("ce",))
    summary = json.loads((output / "audit_Linf" / "summary.json").read_text())
    assert summary["settings"]["norm"] == "Linf"
    assert [row["eps"] for row in summary["rows"]] == [0, 0.01]
    assert files_of(output / "audit") == before


def test_other_settings_into_the_same_folder_are_refused(
    images: Path, output: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for more, message in (
        (("--seed", "1"), "was made with shares"),
        (("--limit", "5"), "holds an audit with other images"),
    ):
        with pytest.raises(SystemExit) as stopped:
            compare(images, output, *more)
        assert stopped.value.code == 2
        assert message in capsys.readouterr().err


def test_an_audit_by_other_numbers_is_refused(
    images: Path, output: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    plan = load_plan()
    plan["presets"]["cpu"]["audit"]["noise_draws"] = 2
    (tmp_path / "covid.json").write_text(json.dumps(plan))
    monkeypatch.setattr(settings_module, "plans_folder", lambda: tmp_path)
    with pytest.raises(SystemExit) as stopped:
        compare(images, output)
    assert stopped.value.code == 2
    assert "holds an audit with other settings" in capsys.readouterr().err


def test_one_more_level_joins_the_audit(images: Path, output: Path) -> None:
    compare(images, output)
    before = summary_of(output)["rows"]
    compare(images, output, "--eps", "0.5", "2", "3")
    after = summary_of(output)["rows"]
    assert [row for row in after if row["eps"] != 3] == before
    assert sum(row["eps"] == 3 for row in after) == len(before) / 3
    compare(images, output)
    assert summary_of(output)["rows"] == before


def test_another_classifier_of_the_same_name_is_refused(
    images: Path, output: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = output / "audit" / "results" / "ce" / "model.json"
    kept = file.read_text()
    file.write_text(json.dumps({"sha256": "0"}))
    with pytest.raises(SystemExit):
        compare(images, output, methods=("ce",))
    assert "holds results of another ce" in capsys.readouterr().err
    file.write_text(kept)


def test_predict_agrees_with_the_audit(images: Path, output: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with (output / "audit" / "cases.csv").open(newline="") as stream:
        rows = [row for row in csv.DictReader(stream) if row["model"] == "ce"]
    capsys.readouterr()
    classify.main(["predict", "--model", str(output / "ce" / "model.pt"), *(str(images / row["id"]) for row in rows)])
    predicted = list(csv.DictReader(io.StringIO(capsys.readouterr().out)))
    assert [row["class"] for row in predicted] == [row["predicted"] for row in rows]
    for row, audited in zip(predicted, rows, strict=True):
        shares = [float(row["probability COVID"]), float(row["probability other"])]
        assert sum(shares) == pytest.approx(1, abs=1e-5)
        assert max(shares) == pytest.approx(float(audited["probability"]), abs=1e-5)


def test_predict_takes_folders_and_writes_a_file(images: Path, output: Path, tmp_path: Path) -> None:
    target = tmp_path / "predictions.csv"
    model = str(output / "ima1" / "model.pt")
    classify.main(["predict", "--model", model, "--output", str(target), str(images / "COVID"), str(images / "other")])
    with target.open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert len(rows) == 80
    right = sum(Path(row["image"]).parent.name == row["class"] for row in rows)
    assert right >= 40


def test_fit_says_what_came_out(images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["fit", "--data", str(images), "--output", str(tmp_path / "out"), "--device", "cpu"]
    classify.main([*arguments, "--method", "ima1", "--set", *SMALL, "start_from=ce"])
    printed = capsys.readouterr().out
    assert "validation accuracy" in printed
    assert "mean margin" in printed
    assert "--method adv" in printed
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"splits.json", "ce", "ima1"}
    trained = json.loads((tmp_path / "out" / "ima1" / "training.json").read_text())
    assert trained["start"] is not None


def test_a_segmentation_models_encoder_can_be_used(images: Path, tmp_path: Path, trained_model: Path) -> None:
    arguments = ["fit", "--data", str(images), "--output", str(tmp_path / "out"), "--device", "cpu", "--method", "ima1"]
    classify.main([*arguments, "--encoder", str(trained_model), "--frozen", "--set", "size=64", "epochs=1"])
    classifier = load_classifier(tmp_path / "out" / "ima1" / "model.pt")
    encoder = open_model(trained_model).networks[0].encoder.state_dict()
    learnt = classifier.network.encoder.state_dict()
    assert learnt.keys() == encoder.keys()
    assert all(torch.equal(learnt[name], encoder[name]) for name in encoder)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["fit", "--method", "magic"], "unknown method 'magic'"),
        (["fit", "--method", "ce", "--preset", "gpu"], "unknown preset 'gpu'"),
        (["fit", "--method", "ce", "--set", "epochs"], "key=value"),
        (["fit", "--method", "ce", "--frozen"], "--frozen is meant for a trained encoder"),
        (["fit", "--method", "ce", "--encoder", "nowhere"], "plans.json is missing"),
        (["fit", "--method", "ce", "--classes", "COVID"], "single class"),
        (["fit", "--method", "ce", "--classes", "COVID", "ill"], "holds no folder ill"),
        (["fit", "--method", "ce", "--device", "abacus"], "--device abacus cannot be used"),
        (["fit", "--method", "ce", "--set", "size=8"], "size=8 does not suit the network"),
        (["compare", "--methods"], "--methods needs at least one"),
        (["compare", "--methods", "ce", "ce"], "names one twice"),
        (["compare", "--methods", "ce", "--limit", "0"], "--limit must be at least 1"),
        (["compare", "--methods", "ce", "--eps", "-1"], "noise levels must ascend, be above 0"),
        (["compare", "--methods", "ce", "--positive", "flu"], "--positive flu is none of the classes"),
        (["compare", "--methods", "ima", "mma", "--set", "start_from=ddn", "norm=Linf"], "needs a noise level"),
    ],
)
def test_wrong_input_is_one_sentence(
    arguments: list[str], message: str, images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stopped:
        classify.main([*arguments, "--data", str(images), "--output", str(tmp_path / "out")])
    assert stopped.value.code == 2
    error = capsys.readouterr().err
    assert message in error
    assert "Traceback" not in error


def test_data_that_cannot_be_used_is_named(images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    broken = tmp_path / "data"
    for label in range(2):
        for number in range(4):
            write_image(broken / str(label) / f"{number}.png", label, number)
    (broken / "0" / "0.png").write_bytes(b"no picture")
    with pytest.raises(SystemExit):
        classify.main(["fit", "--method", "ce", "--data", str(broken), "--output", str(tmp_path / "out")])
    assert str(broken / "0" / "0.png") in capsys.readouterr().err
    with pytest.raises(SystemExit):
        classify.main(["predict", "--model", str(tmp_path / "model.pt"), str(broken)])
    assert "holds no images" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        classify.main(["predict", "--model", str(tmp_path / "model.pt"), str(images / "COVID")])
    assert "model.pt is missing" in capsys.readouterr().err
