"""`nnunet-ima-study` on phantoms."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from comparing import arguments

from nnunet_ima.commands.study import main


def test_values_of_a_setting_side_by_side(
    phantom: Any, trained: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    monkeypatch.setenv("nnUNet_results", str(tmp_path / "results"))
    output = tmp_path / "studied"
    main(arguments(phantom, output, "--values", "0.8", "0.2", "--epochs", "1"))
    assert trained == ["plain", "beta0.2", "beta0.8"]
    shown = capsys.readouterr().out
    assert "| beta0.2 | " in shown
    assert f"Against beta: {output / 'study.png'}" in shown
    assert (output / "study.png").stat().st_size > 5000
    for value in (0.2, 0.8):
        plans = json.loads((phantom.preprocessed / f"nnUNetPlansStudyBeta{value}.json".replace("0.", "0p")).read_text())
        assert plans["ima"]["beta"] == value
    main(arguments(phantom, output, "--values", "0.2", "0.5", "--epochs", "1"))
    assert trained == ["plain", "beta0.2", "beta0.8", "beta0.5"]  # another value joins; nothing is trained twice


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--method", "plain"], "--method must be a defence without a level, such as ima or trades; got 'plain'"),
        (["--method", "adv5"], "got 'adv5'"),
        (["--method", "magic"], "unknown method 'magic'"),
        (["--setting", "magic"], "unknown setting 'magic'"),
        (["--values", "7"], "beta must be"),
        (["--methods", "ima"], "methods"),
    ],
)
def test_wrong_input(
    phantom: Any, tmp_path: Path, trained: list[str], capsys: Any, more: list[str], message: str
) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["-d", str(phantom.dataset_id), "-c", "2d_cpu", "--output", str(tmp_path / "new"), *more])
    assert caught.value.code == 2
    assert message in capsys.readouterr().err
