"""The whole way on real data, by the commands of the README: IMA, begun from a plain model, stands more noise.

Not part of scripts/test.sh; four to six minutes of one core: pytest -m slow tests/test_real_training.py

These trainings are far from finished: they show the direction, not the size. One run of these commands gave, in pooled
Dice / mean Dice per slice, .427 / .490 without noise and .139 / .149 at ε = 5 for the plain model, .290 / .411 and
.181 / .258 for IMA. The bounds below were set after it, with room for other processors.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from conftest import Folders

ROOT = Path(__file__).resolve().parents[1]
REAL_D4 = ROOT.parent / "shared" / "data" / "Task04_Hippocampus"
CASES = 30
PLAIN = "nnUNetTrainerPlain__nnUNetPlansProof__2d_cpu"
IMA = "nnUNetTrainerIMA__nnUNetPlansProofWarm__2d_cpu"


def one_thread(program: str | Path, *arguments: object) -> None:
    """Run a console script of this environment, or a script of this project, so that its figures can be repeated."""
    file = program if isinstance(program, Path) else Path(sys.executable).with_name(program)
    launcher = ROOT / "scripts" / "one_thread.py"
    done = subprocess.run(
        [sys.executable, str(launcher), str(file), *map(str, arguments)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]


def write_part_of_the_archive(target: Path) -> None:
    """The first cases of the original archive, as an archive like it."""
    images = sorted(file.name for file in (REAL_D4 / "imagesTr").glob("*.nii.gz"))[:CASES]
    for folder in ("imagesTr", "labelsTr"):
        (target / folder).mkdir(parents=True)
        for name in images:
            shutil.copyfile(REAL_D4 / folder / name, target / folder / name)
    info = json.loads((REAL_D4 / "dataset.json").read_text())
    info["training"] = [entry for entry in info["training"] if Path(entry["image"]).name in images]
    (target / "dataset.json").write_text(json.dumps(info))


def make_batches_small(plans_file: Path) -> None:
    """8 slices instead of 32: the minutes that there are go into more steps."""
    plans = json.loads(plans_file.read_text())
    plans["configurations"]["2d_cpu"]["batch_size"] = 8
    plans_file.write_text(json.dumps(plans))


@pytest.mark.slow
@pytest.mark.skipif(not REAL_D4.is_dir(), reason=f"the archive Task04_Hippocampus is not at {REAL_D4}")
def test_ima_stands_more_noise_than_the_plain_model_it_began_from(empty_folders: Folders, tmp_path: Path) -> None:
    write_part_of_the_archive(tmp_path / REAL_D4.name)
    one_thread("nnunet-ima-prepare", "D4", "--source", tmp_path / REAL_D4.name, "--processes", 1)
    make_batches_small(empty_folders.preprocessed / "Dataset004_Hippocampus" / "nnUNetPlans.json")

    plan = ("nnunet-ima-plan", "-d", 4, "--name")
    one_thread(*plan, "nnUNetPlansProof", "--set", "epochs=2", "iterations_per_epoch=200")
    train = ("nnUNetv2_train", 4, "2d_cpu", 0, "-device", "cpu", "-tr")
    one_thread(*train, "nnUNetTrainerPlain", "-p", "nnUNetPlansProof")
    short = ("epochs=2", "iterations_per_epoch=80", "delta=5", "beta=0.5", "robust_interval=0")
    one_thread(*plan, "nnUNetPlansProofWarm", "--set", *short, f"start_from={PLAIN}")
    one_thread(*train, "nnUNetTrainerIMA", "-p", "nnUNetPlansProofWarm")

    models = empty_folders.results / "Dataset004_Hippocampus"
    protocol = ("--eps", 0, 5, "--every", 4, "--steps", 20, "--reference-elements", 2240, "--device", "cpu")
    named = (f"plain={models / PLAIN}", f"ima={models / IMA}")
    one_thread(ROOT / "scripts" / "paper_protocol.py", "--models", *named, *protocol, "--output", tmp_path / "table")
    rows = json.loads((tmp_path / "table.json").read_text())["rows"]
    pooled, mean = ({(row["model"], row["eps"]): row[key] for row in rows} for key in ("pooled_dice", "sample_dice"))
    assert pooled["plain", 0] > 0.25  # both have learned something
    assert pooled["ima", 0] > 0.15
    assert pooled["plain", 5] < pooled["plain", 0] - 0.1  # the noise hurts
    assert pooled["ima", 5] > pooled["plain", 5]
    assert mean["ima", 5] > mean["plain", 5] + 0.05
