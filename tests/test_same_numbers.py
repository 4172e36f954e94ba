"""The comparison of scripts/same_numbers.sh, on figures made up: what moved is found, what is only elsewhere is not."""

from __future__ import annotations

import importlib.util
import json
import os
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch

SCRIPT = Path(__file__).resolve().parents[1] / "scripts" / "same_numbers.py"
LOG = """train_loss {loss}
val_loss 0.5
Pseudo dice [np.float32(0.25), np.float32(0.5)]
IMA margin 0.1 ± 0.02, largest 0.2; attacked 49%, of these crossed 9%; pseudo Dice at ε = 0.1: 0.3000
Mean Validation Dice:  0.4
"""


@pytest.fixture(scope="module")
def same_numbers() -> ModuleType:
    specification = importlib.util.spec_from_file_location("same_numbers", SCRIPT)
    assert specification is not None
    assert specification.loader is not None
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    return module


def write(file: Path, content: Any) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(content if isinstance(content, str) else json.dumps(content))


@pytest.fixture
def output(tmp_path: Path) -> Path:
    """What the two versions have made: the same."""
    for side in ("before", "after"):
        home = tmp_path / side
        for model in ("plain", "ima"):
            write(home / f"{model}.log", LOG.format(loss=0.75))
            folder = home / "results" / f"nnUNetTrainer{'IMA' if model == 'ima' else 'Plain'}__P__2d" / "fold_0"
            folder.mkdir(parents=True)
            torch.save({"network_weights": {"w": torch.ones(3)}}, folder / "checkpoint_final.pth")
        (home / "preprocessed").mkdir()
        np.savez(home / "preprocessed" / "case.npz", data=np.arange(5.0))
        rows = [{"model": "ima", "eps": eps, "pooled_dice": 0.8 - eps, "sample_dice": 0.7} for eps in (0, 0.1)]
        write(home / "paper.json", {"rows": rows})
        write(home / "audit" / "summary.json", {"rows": [{"attack": "pgd", "eps": 0.1, "mean_dice": 0.5}]})
        write(home / "audit" / "results" / "m" / "case" / "pgd@0.1.json", {"dice": 0.5, "seconds": 1.5})
        np.save(home / "audit" / "noise.npy", np.ones(4))
        write(home / "covid" / "ima" / "log.csv", "epoch,loss,validation_robust,margin_mean\n1,0.6,0.5,0.1\n")
        torch.save({"weights": {"w": torch.ones(2)}}, home / "covid" / "ima" / "model.pt")
        write(home / "covid" / "audit" / "results" / "ima" / "clean.json", {"accuracy": 0.9, "logits": [1.0, 2.0]})
    return tmp_path


def test_equal_figures_are_the_same(same_numbers: ModuleType, output: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert same_numbers.compare(output)
    printed = capsys.readouterr().out
    assert "All figures are the same" in printed
    assert "NOT" not in printed


@pytest.mark.parametrize(
    ("file", "content", "row"),
    [
        ("plain.log", LOG.format(loss=0.75001), "plain           train_loss"),
        ("paper.json", {"rows": [{"model": "ima", "eps": 0.1, "pooled_dice": 0.8, "sample_dice": 0.7}]}, "pooled_dice"),
        ("audit/results/m/case/pgd@0.1.json", {"dice": 0.500002}, "audit           dice"),
        ("audit/results/m/case/pgd@0.1.json", {"other": 0.5}, "audit           dice"),
        ("covid/ima/log.csv", "epoch,loss,validation_robust,margin_mean\n1,0.6,0.5,0.11\n", "margin_mean"),
    ],
)
def test_what_moved_or_went_is_found(
    file: str, content: Any, row: str, same_numbers: ModuleType, output: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write(output / "after" / file, content)
    assert not same_numbers.compare(output)
    wrong = [line for line in capsys.readouterr().out.splitlines() if "  NOT" in line]
    assert len(wrong) == 1
    assert row in wrong[0]


def test_moved_weights_are_found(same_numbers: ModuleType, output: Path) -> None:
    file = next((output / "after" / "results").rglob("checkpoint_final.pth"))
    torch.save({"network_weights": {"w": torch.ones(3) + 1e-4}}, file)
    assert not same_numbers.compare(output)


def test_files_may_move_and_hold_more(same_numbers: ModuleType, output: Path) -> None:
    os.remove(output / "after" / "audit" / "results" / "m" / "case" / "pgd@0.1.json")
    write(output / "after" / "audit" / "records" / "1.json", {"key": {"x": 1}, "scores": {"dice": 0.5}, "seconds": 9.0})
    assert same_numbers.compare(output)


def test_order_of_rows_does_not_matter_but_whose_they_are(same_numbers: ModuleType, output: Path) -> None:
    file = output / "after" / "paper.json"
    rows = json.loads(file.read_text())["rows"]
    write(file, {"rows": rows[::-1]})
    assert same_numbers.compare(output)
    rows[0]["pooled_dice"], rows[1]["pooled_dice"] = rows[1]["pooled_dice"], rows[0]["pooled_dice"]
    write(file, {"rows": rows})
    assert not same_numbers.compare(output)
