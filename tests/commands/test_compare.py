"""`nnunet-ima-compare` on phantoms, from nothing to a table, and again."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from comparing import SETTINGS, arguments, train_here

from nnunet_ima.commands import compare
from nnunet_ima.commands.compare import main


def test_from_nothing_to_a_table_and_on(
    phantom: Any, trained: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    monkeypatch.setenv("nnUNet_results", str(tmp_path / "results"))
    output = tmp_path / "compared"
    first = arguments(phantom, output, "--methods", "plain", "ima", "adv0.05", "--epochs", "1")
    main(first)
    assert trained == ["plain", "ima", "adv0.05"]
    shown = capsys.readouterr().out
    assert "| adv0.05 | " in shown
    assert "| 1 epochs, 8.0 + 8.0 passes per sample, " in shown  # seven steps and learning
    assert "PGD on slices, ε = 0.1: " in shown
    rows = json.loads((output / "paper.json").read_text())["rows"]
    assert {(row["model"], row["eps"]) for row in rows} == {
        (model, eps) for model in ("plain", "ima", "adv0.05") for eps in (0.0, 0.1)
    }
    assert (output / "comparison.png").is_file()
    main(
        [
            *first[:10],
            "0",
            "0.1",
            "--steps",
            "2",
            "--every",
            "4",
            "--methods",
            "plain",
            "te",
            "--epochs",
            "1",
            "--set",
            *SETTINGS,
        ]
    )
    assert trained == ["plain", "ima", "adv0.05", "te"]  # another method joins; nothing is trained twice
    plans = json.loads((phantom.preprocessed / "nnUNetPlansCompareAdv0p05.json").read_text())
    assert plans["adv"]["eps"] == 0.05
    assert plans["schedule"]["start_from"] == "nnUNetTrainerPlain__nnUNetPlans__2d_cpu"
    with pytest.raises(SystemExit):
        main(arguments(phantom, output, "--methods", "ima", "--epochs", "2"))
    assert "holds other settings of ima; choose another --prefix" in capsys.readouterr().err


def test_a_model_trained_anew_is_not_given_the_former_numbers(
    phantom: Any, trained: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    monkeypatch.setenv("nnUNet_results", str(tmp_path / "results"))
    command = arguments(phantom, tmp_path / "out", "--methods", "ima", "--epochs", "1", "--prefix", "First")
    main(command)
    with pytest.raises(SystemExit):
        main([*["Second" if word == "First" else word for word in command], "seed=1"])
    assert "paper.json holds rows of another model ima; choose another --output" in capsys.readouterr().err


def test_models_are_also_audited_through_the_whole_inference(
    phantom: Any, trained: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    monkeypatch.setenv("nnUNet_results", str(tmp_path / "results"))
    output = tmp_path / "compared"
    audit = ("--attack", "quick", "--cases", "2", "--audit-steps", "2", "--no-tta")
    main(arguments(phantom, output, "--methods", "plain", "ima", "--epochs", "1", "--prefix", "Audited", *audit))
    shown = capsys.readouterr().out
    assert "| quick, ε = 0 | quick, ε = 0.1 |" in shown
    line = next(line for line in shown.splitlines() if line.startswith("| ima |"))
    with (output / "audit" / "cases.csv").open(newline="") as stream:
        rows = [row for row in csv.DictReader(stream) if (row["model"], row["attack"]) == ("ima", "quick")]
    assert len(rows) == 2
    mean = sum(float(row["dice"]) for row in rows) / 2
    assert float(line.split("|")[5].strip(" *")) == pytest.approx(mean, abs=6e-4)
    assert "quick, ε = 0.1: " in shown
    assert "(mean Dice over 2 cases, 95 % intervals)" in shown


def test_equal_cost_gives_dearer_methods_fewer_epochs(
    phantom: Any, trained: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("nnUNet_results", str(tmp_path / "results"))
    command = arguments(
        phantom, tmp_path / "out", "--methods", "adv0.1", "--epochs", "6", "--equal-cost", "--prefix", "P"
    )
    monkeypatch.setattr(compare, "run_training", train_here)
    monkeypatch.setattr(
        "nnunet_ima.training.cost.measure_cost",
        lambda plans, configuration, fold, method, *rest: SimpleNamespace(passes={"ima": 8.0, "adv": 16.0}[method]),
    )
    main(command)
    plans = json.loads((phantom.preprocessed / "PAdv0p1.json").read_text())
    assert plans["schedule"]["epochs"] == 3


def test_cost_is_that_of_the_steps(phantom: Any, tiny_plans: Any) -> None:
    from nnunet_ima.training.cost import measure_cost

    dataset_json = json.loads((phantom.preprocessed / "dataset.json").read_text())
    plans = tiny_plans(phantom, "adv", steps=5)
    cost = measure_cost(plans, "2d", 0, "adv", dataset_json, "cpu")
    assert cost.passes == 12  # five steps and learning, forward and backward
    assert cost.seconds > 0
    assert measure_cost(plans, "2d", 0, "plain", dataset_json, "cpu").passes == 2
    # TE's own loss, with a pass of the averaged network, counts from .45 of the epochs on: in one of three steps not
    plans = tiny_plans(phantom, "te", steps=5, epochs=30)
    assert 12 < measure_cost(plans, "2d", 0, "te", dataset_json, "cpu").passes < 13


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--methods", "magic"], "unknown method 'magic'"),
        (["--methods", "plain5"], "the method plain uses no noise"),
        (["--epochs", "0"], "--epochs must be at least 1"),
        (["--eps", "-1"], "--eps needs noise levels"),
        (["--attack", "magic"], "unknown attack 'magic'"),
        (["--prefix", "a/b"], "--prefix consists of letters and digits"),
        (["--methods", "ima", "--set", "adv.steps=3"], "adv is none of the methods compared (ima)"),
        (["--eps", "0.1", "--set", "norm=L7"], "norm must be one of L2, Linf"),
        (["--every", "0"], "--every must be at least 1"),
        (["--audit-steps", "0"], "--audit-steps must be at least 1"),
    ],
)
def test_wrong_input(
    phantom: Any, tmp_path: Path, trained: list[str], capsys: Any, more: list[str], message: str
) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["-d", str(phantom.dataset_id), "-c", "2d_cpu", "--output", str(tmp_path / "new"), *more])
    assert caught.value.code == 2
    assert message in capsys.readouterr().err
    assert trained == []


def with_regions(dataset: dict[str, Any], plans: dict[str, Any]) -> None:
    dataset |= {"labels": {"background": 0, "whole": [1, 2], "core": 2}, "regions_class_order": [1, 2]}


def as_second_stage(dataset: dict[str, Any], plans: dict[str, Any]) -> None:
    plans["configurations"]["2d_cpu"]["previous_stage"] = "2d"


def with_a_reference(dataset: dict[str, Any], plans: dict[str, Any]) -> None:
    plans["schedule"] = {"reference_elements": 2240}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (with_regions, "does not cover region-based labels"),
        (as_second_stage, "is the second stage of a cascade"),
        (with_a_reference, "the data set has no default levels in the unit paper"),
    ],
)
def test_what_could_not_be_measured_is_not_trained(
    make_phantom: Any, tmp_path: Path, trained: list[str], capsys: Any, change: Any, message: str
) -> None:
    phantom = make_phantom(dataset_id=931)
    files = [phantom.preprocessed / f"{name}.json" for name in ("dataset", "nnUNetPlans")]
    before = [file.read_text() for file in files]
    contents = [json.loads(text) for text in before]
    change(*contents)
    for file, content in zip(files, contents, strict=True):
        file.write_text(json.dumps(content))
    try:
        with pytest.raises(SystemExit) as caught:
            main(["-d", "931", "-c", "2d_cpu", "--output", str(tmp_path / "new")])
    finally:
        for file, text in zip(files, before, strict=True):
            file.write_text(text)
    assert caught.value.code == 2
    assert message in capsys.readouterr().err
    assert trained == []
