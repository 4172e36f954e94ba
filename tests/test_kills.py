"""scripts/kill_test.sh on generated data: what is killed leaves the same in the end. Some minutes; `-m slow`."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

SCRIPT = Path(__file__).resolve().parent.parent / "scripts" / "kill_test.sh"
KILLS = "10"

Kill = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture
def kill() -> Kill:
    def start(*arguments: object, slowest: int = 25) -> subprocess.CompletedProcess[str]:
        environment = dict(os.environ) | {"SLOWEST": str(slowest), "MPLBACKEND": "Agg", "PYTHON": sys.executable}
        command = ["bash", str(SCRIPT), *map(str, arguments)]
        return subprocess.run(command, env=environment, capture_output=True, text=True)

    return start


def same_end(done: subprocess.CompletedProcess[str]) -> None:
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"{KILLS} kills, " in done.stdout
    assert "all with the same end" in done.stdout


@pytest.mark.slow
def test_a_training(phantom, kill: Kill) -> None:
    from nnunet_ima.commands import plan

    settings = ["epochs=5", "iterations_per_epoch=2", "tau=0.01", "snapshot_interval=1", "robust_steps=1"]
    plan.main(["-d", str(phantom.dataset_id), "--name", "nnUNetPlansKill", "--overwrite", "--set", *settings])
    arguments = (phantom.dataset_id, "2d_cpu", 0, "-tr", "nnUNetTrainerIMA", "-p", "nnUNetPlansKill", "-device", "cpu")
    same_end(kill("training", KILLS, *arguments))


@pytest.mark.slow
def test_a_classifier(tmp_path: Path, kill: Kill) -> None:
    for number in range(24):
        rng, label = np.random.default_rng(number), number % 2
        stripes = 40 * label * ((np.arange(32)[:, None] + np.arange(32)) % 2)
        file = tmp_path / "images" / ("COVID", "other")[label] / f"{number:02d}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray((100 + 25 * rng.random((32, 32)) + stripes).astype(np.uint8)).save(file)
    settings = ["size=32", "epochs=12", "batch_size=8", "robust_images=2", "robust_steps=1"]
    same_end(kill("classifier", KILLS, "--data", tmp_path / "images", "--method", "ima", "--set", *settings))


def test_unknown_things_are_refused_with_the_usage(kill: Kill) -> None:
    for arguments in (("audits", "3"), ("audit", "many"), ()):
        done = kill(*arguments)
        assert done.returncode == 2
        assert "bash scripts/kill_test.sh training 100" in done.stderr
