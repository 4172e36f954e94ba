"""A real run: scikit-learn's digits as IDX files, trained and attacked through the command, and pictures in colours."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from archive_files import rgb_pictures, write_cifar_python, write_idx
from sklearn.datasets import load_digits

from nnunet_ima.classification import settings as settings_module
from nnunet_ima.classification.settings import load_plan
from nnunet_ima.commands import classify
from nnunet_ima.commands import compare as compare_command
from nnunet_ima.datasets.tasks import plans_folder

AUDIT = {"pgd_steps": 20, "apgd_steps": 10, "square_queries": 10, "spsa_samples": 8, "spsa_steps": 3, "spsa_images": 2}
AUDIT |= {"check_images": 8, "minimal_steps": 3}


@pytest.fixture(autouse=True)
def small_audits(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """The packaged plans with audits that take no time."""
    plan = load_plan("fashion-mnist")
    for preset in plan["presets"].values():
        preset["audit"] |= AUDIT
    folder = tmp_path_factory.mktemp("plans")
    shutil.copytree(plans_folder(), folder, dirs_exist_ok=True)
    (folder / "natural_images.json").write_text(json.dumps(plan))
    monkeypatch.setattr(settings_module, "plans_folder", lambda: folder)


def accuracies(output: Path) -> dict[tuple[str, float], float]:
    summary: dict[str, Any] = json.loads((output / "audit" / "summary.json").read_text())
    assert summary["positive"] is None
    return {(row["model"], row["eps"]): row["accuracy"]["value"] for row in summary["rows"]}


def test_ima_makes_digits_robust(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    digits = load_digits()
    pixels, labels = (15 * digits.images).astype(np.uint8), digits.target.astype(np.uint8)
    write_idx(tmp_path / "data", (pixels[:900], labels[:900]), (pixels[-200:], labels[-200:]), packed=True)
    output = tmp_path / "out"
    classify.main(
        [
            *("compare", "--data", str(tmp_path / "data"), "--output", str(output), "--device", "cpu"),
            *("--preset", "fashion-mnist", "--methods", "ce", "ima1", "--eps", "0.5", "--limit", "100", "--set"),
            *("size=8", "reference_elements=64", "epochs=6", "batch_size=25", "steps=5", "start_from=ce"),
            *("robust_images=30", "robust_steps=3"),
        ]
    )
    found = accuracies(output)
    assert found["ce", 0] > 0.8
    assert found["ima1", 0] > 0.8
    assert found["ima1", 0.5] > found["ce", 0.5] + 0.1
    splits = json.loads((output / "splits.json").read_text())
    assert (len(splits["train"]), len(splits["test"])) == (810, 200)
    with (output / "audit" / "cases.csv").open(newline="") as stream:
        assert {row["id"].split("/")[0] for row in csv.DictReader(stream)} == {"test"}
    printed = capsys.readouterr().out
    assert "ε (L2 norm on 64 elements)" in printed
    assert "sensitivity" not in printed  # no digit is ill
    assert "AUC" not in printed


def test_colours_go_through_the_whole_comparison(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (pixels, labels), test = rgb_pictures(200), rgb_pictures(20, seed=1)
    pixels[:, 0] = 25 * labels[:, None, None]  # the shade of red tells the class, which grey pictures would blur
    write_cifar_python(tmp_path / "data", (pixels, labels), test)
    output = tmp_path / "out"
    arguments = ["--data", str(tmp_path / "data"), "--output", str(output), "--device", "cpu", "--preset", "cifar10"]
    small = ("network=cnn", "epochs=1", "steps=2", "robust_images=4", "robust_steps=2")
    compare_command.main([*arguments, "--methods", "ce", "ima", "--limit", "4", "--eps", "0.1", "--set", *small])
    assert set(accuracies(output)) == {(model, eps) for model in ("ce", "ima") for eps in (0, 0.1)}
    assert "32×32 pixels of three colours in [0, 1]" in capsys.readouterr().out
    assert (output / "audit" / "example.png").stat().st_size > 0
    assert max(json.loads((output / "ima" / "margins.json").read_text()).values()) <= 3
