"""scripts/side_by_side.py at toy size on a CPU: its rows, and what the file says for all trainings.

Not part of scripts/test.sh; half a minute of one core: pytest -m slow tests/test_side_by_side.py
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import torch

from nnunet_ima.training.trainers import nnUNetTrainerPlain

if TYPE_CHECKING:
    from conftest import MakePhantom, PhantomDataset

SCRIPT = Path(__file__).resolve().parent.parent / "scripts" / "side_by_side.py"
FILE = """
dataset = "{name}"
configuration = "2d_cpu"
reference_elements = 1
eps = [0.0, 0.1]
audit = ["--attack", "quick", "--eps", "0.1", "--limit", "1", "--steps", "2", "--no-tta", "--no-margins",
         "--check-cases", "0"]
settings = {{ epochs=1, iterations_per_epoch=1, robust_interval=0, beta=0.25 }}

[[training]]
label = "all"
method = "ima"
fold = 0
steps = 2
every = 4

[[training]]
label = "own"
method = "ima"
fold = 0
audit = []
settings = {{ beta=0.75 }}
steps = 2
every = 4

[[training]]
label = "plain"
method = "plain"
fold = 0
trained = "nnUNetTrainerPlain__nnUNetPlans__2d_cpu"
audit = []
steps = 2
every = 4
"""


def train_plain(phantom: PhantomDataset) -> None:
    """The model that all start from."""
    plans, dataset = (
        json.loads((phantom.preprocessed / f"{name}.json").read_text()) for name in ("nnUNetPlans", "dataset")
    )
    plans |= {"schedule": {"epochs": 1, "iterations_per_epoch": 1}, "continue_training": False}
    nnUNetTrainerPlain(plans, "2d_cpu", 0, dataset, torch.device("cpu")).run_training()


@pytest.mark.slow
def test_trainings_are_measured_with_what_the_file_says(make_phantom: MakePhantom, tmp_path: Path) -> None:
    phantom, file, output = make_phantom(), tmp_path / "file.toml", tmp_path / "out"
    file.write_text(FILE.format(name=phantom.name))
    train_plain(phantom)
    work = phantom.raw.parent.parent
    command = [sys.executable, str(SCRIPT), str(file), "--work", str(work), "--output", str(output)]
    command += ["--at-once", "2", "--device", "cpu"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    logs = "".join(log.read_text() for log in output.glob("*.log"))
    assert done.returncode == 0, done.stdout + done.stderr + logs[-3000:]

    pretrained = json.loads((output / "plain.json").read_text())
    assert (pretrained["settings"], pretrained["finished"]) == ({}, True)  # nothing of what others train with
    rows = {label: json.loads((output / f"{label}.json").read_text()) for label in ("all", "own")}
    assert {label: row["settings"]["beta"] for label, row in rows.items()} == {"all": 0.25, "own": 0.75}
    for label, row in rows.items():
        assert row["finished"]
        assert list(row["paper"]) == list(row["worst_of_two"]) == ["0", "0.1"]
        assert row["paper"]["0"] == row["worst_of_two"]["0"]  # nothing is attacked
        assert f"\n| {label} | 0 | {row['paper']['0']:.3f} / " in done.stdout
    assert {line["attack"] for line in rows["all"]["audit"]} == {"clean", "quick"}
    assert "audit" not in rows["own"]
    assert (output / "models_0.tar").stat().st_size > 0
