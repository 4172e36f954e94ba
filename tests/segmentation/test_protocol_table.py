"""The table of the paper's protocol: what it answers, and files of earlier releases."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

import pytest

from nnunet_ima.segmentation.protocol_table import ProtocolTable, Question

QUESTION = Question(2240, fold=1)


def write(file: Path, question: dict[str, object]) -> Path:
    rows = [{"model": "ima", "eps": 5.0, "pooled_dice": 0.5, "sample_dice": 0.4, "inputs": 3}]
    file.write_text(json.dumps({"question": question, "rows": rows, "device": "CPU"}))
    return file


def test_a_file_that_names_no_loss_answers_for_the_trained_one(tmp_path: Path) -> None:
    stored = {key: value for key, value in asdict(QUESTION).items() if key != "losses"}
    table = ProtocolTable(write(tmp_path / "paper.json", stored), QUESTION)
    assert "0.500 / 0.400" in table.markdown()
    assert "random start, Dice + cross-entropy;" in table.markdown()


def test_another_loss_is_another_question(tmp_path: Path) -> None:
    file = write(tmp_path / "paper.json", asdict(QUESTION))
    other = Question(2240, fold=1, losses=("dice_ce", "balanced_masked_ce"))
    with pytest.raises(ValueError, match="answers another question"):
        ProtocolTable(file, other)
    table = ProtocolTable(write(tmp_path / "both.json", asdict(other)), other)
    assert "the worst of one for each loss (Dice + cross-entropy, balanced_masked_ce)" in table.markdown()


ROWS = json.dumps({"question": asdict(QUESTION), "rows": [{"model": "ima", "eps": 5.0}]})


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"question": 3, "rows": []}', ROWS, ROWS[:-9], "\0" * 40])
def test_a_damaged_file_is_refused(content: str, tmp_path: Path) -> None:
    file = tmp_path / "paper.json"
    file.write_text(content)
    with pytest.raises(ValueError, match=r"paper\.json (is damaged|holds no rows).*choose another --output"):
        ProtocolTable(file, QUESTION)
