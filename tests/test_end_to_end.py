"""What a user types: train, resume the validation, predict, choose a snapshot, hand it to plain nnU-Net, attack."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import nibabel as nib
import numpy as np
import pytest

from nnunet_ima.commands import demo, plan, select
from nnunet_ima.segmentation import paper_protocol as protocol

if TYPE_CHECKING:
    from conftest import PhantomDataset

SETTINGS = ["epochs=2", "iterations_per_epoch=3", "snapshot_interval=1", "robust_steps=2", "tau=0.05"]


def shell(*command: object, check: bool = True) -> subprocess.CompletedProcess[str]:
    """Run a console script of this environment, in plain processes without any help from pytest."""
    program = Path(sys.executable).with_name(str(command[0]))
    return subprocess.run(
        [str(program), *map(str, command[1:])], check=check, text=True, capture_output=True, env=dict(os.environ)
    )


@pytest.fixture(scope="module")
def trained(phantom: PhantomDataset) -> Path:
    """Results folder of a short training with the command from the README."""
    plan.main(["-d", str(phantom.dataset_id), "--name", "nnUNetPlansShort", "--set", *SETTINGS])
    done = shell(
        "nnUNetv2_train", phantom.dataset_id, "2d_cpu", 0, "-tr", "nnUNetTrainerIMA", "-p", "nnUNetPlansShort",
        "-device", "cpu",
    )  # fmt: skip
    assert "Mean Validation Dice" in done.stdout
    return phantom.results / "nnUNetTrainerIMA__nnUNetPlansShort__2d_cpu"


def predict(*command: object, dataset: PhantomDataset, output: Path) -> dict[str, np.ndarray]:
    images = output.parent / "images"
    images.mkdir(exist_ok=True)
    for file in sorted((dataset.raw / "imagesTr").iterdir())[:2]:
        shutil.copy(file, images)
    shell(*command, "-i", images, "-o", output, "-device", "cpu", "-npp", 1, "-nps", 1)
    return {file.name: np.asarray(nib.load(file).dataobj) for file in sorted(output.glob("*.nii.gz"))}


def test_train_predict_select_export(phantom: PhantomDataset, trained: Path, tmp_path: Path, capsys) -> None:
    fold = trained / "fold_0"
    assert (fold / "ima_progress.png").is_file()
    model = ["-d", phantom.dataset_id, "-c", "2d_cpu", "-f", 0, "-tr", "nnUNetTrainerIMA", "-p", "nnUNetPlansShort"]
    final = (fold / "checkpoint_final.pth").read_bytes()
    snapshots = json.loads((fold / "ima_snapshots.json").read_text())["snapshots"]
    places = [(entry["epoch"], entry["weights"]) for entry in snapshots]
    assert places == [(1, "raw"), (1, "averaged"), (2, "raw"), (2, "averaged")]
    arguments = ["-d", str(phantom.dataset_id), "-c", "2d_cpu", "-p", "nnUNetPlansShort", "--min-dice", "0"]
    select.main([*arguments, "--dry-run"])
    assert (fold / "checkpoint_final.pth").read_bytes() == final
    select.main([*arguments, "--export-stock", str(tmp_path / "stock")])
    assert "> " in capsys.readouterr().out
    assert (fold / "checkpoint_final.former.pth").read_bytes() == final

    chosen = predict("nnUNetv2_predict", *model, dataset=phantom, output=tmp_path / "chosen")
    stock = predict(
        "nnUNetv2_predict_from_modelfolder", "-m", tmp_path / "stock", "-f", 0, dataset=phantom, output=tmp_path / "out"
    )
    assert len(chosen) == 2
    assert all(np.array_equal(chosen[name], stock[name]) for name in chosen)
    source = (tmp_path / "stock" / "fold_0" / "checkpoint_final.pth").read_bytes()
    assert b"nnUNetTrainerIMA" not in source
    assert b"nnunet_ima" not in source


def test_validation_alone(phantom: PhantomDataset, trained: Path) -> None:
    summary = trained / "fold_0" / "validation" / "summary.json"
    summary.unlink()
    shell(
        "nnUNetv2_train", phantom.dataset_id, "2d_cpu", 0, "-tr", "nnUNetTrainerIMA", "-p", "nnUNetPlansShort",
        "-device", "cpu", "--val",
    )  # fmt: skip
    assert summary.is_file()


def test_unknown_setting_stops_the_training_by_name(phantom: PhantomDataset) -> None:
    file = phantom.preprocessed / "nnUNetPlansOdd.json"
    plans = json.loads((phantom.preprocessed / "nnUNetPlans.json").read_text())
    file.write_text(json.dumps(plans | {"plans_name": "nnUNetPlansOdd", "ima": {"epsmax": 1}}))
    done = shell(
        "nnUNetv2_train", phantom.dataset_id, "2d_cpu", 0, "-tr", "nnUNetTrainerIMA", "-p", "nnUNetPlansOdd",
        "-device", "cpu", check=False,
    )  # fmt: skip
    assert done.returncode != 0
    assert "unknown setting 'epsmax'" in done.stderr


def test_measurement_of_a_trained_model(phantom: PhantomDataset, trained: Path) -> None:
    model = protocol.load_model(trained)
    inputs = protocol.network_inputs(model, protocol.cases_of_fold(model))
    assert all((entry.target > 0).any() for entry in inputs)
    rows = protocol.measure(model, [0.0, 0.5], 1, steps=5)
    assert rows[1]["pooled_dice"] <= rows[0]["pooled_dice"]
    eps = 0.5
    for (x, _, _), noisy in zip(inputs, protocol.attack_inputs(model, inputs, eps, 1, steps=5), strict=True):
        assert noisy.shape == x.shape
        assert float((noisy - x).norm()) <= eps * x.numel() ** 0.5 * (1 + 1e-5)
    losses = ("dice_ce", "balanced_masked_ce")
    both = protocol.measure(model, [0.0, 0.5], 1, steps=5, losses=losses)
    alone = [protocol.measure(model, [0.5], 1, steps=5, losses=[loss])[0] for loss in losses]
    assert both[0]["pooled_dice"] == rows[0]["pooled_dice"]
    assert list(both[1]["pooled_dice_by_loss"].values()) == [row["pooled_dice"] for row in alone]
    assert both[1]["sample_dice"] <= min(row["sample_dice"] for row in alone) + 1e-6
    label = protocol.predict(model, inputs[0][0])
    assert label.shape == inputs[0][0].shape[1:]


def test_robust_overfitting_is_told_by_snapshot_and_kind_of_cases(trained: Path, tmp_path: Path) -> None:
    script, out = Path(__file__).parent.parent / "scripts" / "robust_overfitting.py", tmp_path / "overfitting"
    command = [sys.executable, script, trained, "--eps", "0.3", "--steps", "1", "--inputs", "4", "--output", out]
    subprocess.run([*map(str, command), "--device", "cpu"], check=True, capture_output=True, env=dict(os.environ))
    model = protocol.load_model(trained)
    for kind in ("val", "train"):
        rows = json.loads(out.with_name(f"overfitting_{kind}.json").read_text())["rows"]
        assert {row["model"] for row in rows} == {"epoch 1", "epoch 2", "final, averaged"}
        cases = {case for row in rows for case in row["case_dice"]}
        assert cases
        assert cases <= set(protocol.cases_of_fold(model, kind))
    lines = [line for line in out.with_name("overfitting.md").read_text().splitlines() if line.startswith("| epoch")]
    assert len(lines) == 2


@pytest.mark.parametrize(
    ("command", "arguments", "sentence"),
    [
        (select, ["-d", "77", "-c", "2d", "--min-dice", "0.5"], "holds no data set 77"),
        (select, ["-d", "{id}", "-c", "2d", "--min-dice", "0.5"], "does not exist"),
        (select, ["-d", "{id}", "-c", "2d_cpu", "-p", "nnUNetPlansShort", "--min-dice", "1.5"], "--min-dice must be"),
        (select, ["-d", "{id}", "-c", "2d_cpu", "-p", "nnUNetPlansShort", "--min-dice", "1"], "no snapshot has"),
        (demo, ["--epochs", "0"], "--epochs must be at least 1"),
        (demo, ["--eps", "-1"], "--eps needs"),
    ],
)
def test_wrong_input_gives_one_sentence_and_status_2(
    command, arguments: list[str], sentence: str, phantom: PhantomDataset, trained: Path, capsys
) -> None:
    with pytest.raises(SystemExit) as stop:
        command.main([argument.format(id=phantom.dataset_id) for argument in arguments])
    assert stop.value.code == 2
    error = capsys.readouterr().err
    assert sentence in error
    assert "Traceback" not in error
