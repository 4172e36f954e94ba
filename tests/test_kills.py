"""scripts/kill_test.py on generated data: what is killed leaves the same in the end."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

SCRIPT = Path(__file__).resolve().parent.parent / "scripts" / "kill_test.py"
KILLS = "10"


def kill(*arguments: object) -> subprocess.CompletedProcess[str]:
    environment = dict(os.environ) | {"MPLBACKEND": "Agg"}
    command = [sys.executable, str(SCRIPT), *map(str, arguments)]
    return subprocess.run(command, env=environment, capture_output=True, text=True)


def same_end(done: subprocess.CompletedProcess[str]) -> None:
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"{KILLS} kills, " in done.stdout
    assert "all with the same end" in done.stdout


def audit(trained_model: Path, phantom: Any) -> list[object]:
    images, labels = (phantom.raw / name for name in ("imagesTr", "labelsTr"))
    command: list[object] = ["--model", trained_model, "--images", images, "--labels", labels, "--device", "cpu"]
    return [*command, *"--attack fgsm --eps 0.3 --limit 3 --no-margins --check-cases 0 --no-tta".split()]


def test_an_audit(trained_model: Path, phantom: Any) -> None:
    same_end(kill("audit", KILLS, "--workers", "0", *audit(trained_model, phantom)))


@pytest.mark.slow
def test_an_audit_with_two_workers(trained_model: Path, phantom: Any) -> None:
    same_end(kill("audit", KILLS, "--slowest", "20", *audit(trained_model, phantom)))


@pytest.mark.slow  # every run compares an interrupted training with a whole one, in training/test_resume.py
def test_a_training(phantom: Any) -> None:
    from nnunet_ima.commands import plan

    settings = ["epochs=4", "iterations_per_epoch=2", "tau=0.01", "snapshot_interval=1", "robust_steps=1"]
    plan.main(["-d", str(phantom.dataset_id), "--name", "nnUNetPlansKill", "--overwrite", "--set", *settings])
    arguments = (phantom.dataset_id, "2d_cpu", 0, "-tr", "nnUNetTrainerIMA", "-p", "nnUNetPlansKill", "-device", "cpu")
    same_end(kill("training", KILLS, *arguments))


def test_a_classifier(tmp_path: Path) -> None:
    for number in range(24):
        rng, label = np.random.default_rng(number), number % 2
        stripes = 40 * label * ((np.arange(32)[:, None] + np.arange(32)) % 2)
        file = tmp_path / "images" / ("COVID", "other")[label] / f"{number:02d}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray((100 + 25 * rng.random((32, 32)) + stripes).astype(np.uint8)).save(file)
    settings = ["size=32", "epochs=5", "batch_size=8", "robust_images=2", "robust_steps=1"]
    same_end(kill("classifier", KILLS, "--data", tmp_path / "images", "--method", "ima", "--set", *settings))


def test_unknown_things_are_refused_with_the_usage() -> None:
    for arguments in (("audits", "3"), ("audit", "many"), ("audit", "0"), ()):
        done = kill(*arguments)
        assert done.returncode == 2
        assert "usage: kill_test.py" in done.stderr
