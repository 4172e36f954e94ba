from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from nnunet_ima.training.snapshots import (
    FINAL,
    FORMER,
    INDEX,
    Snapshot,
    add_snapshot,
    choose,
    make_final,
    read_snapshots,
    table,
)


def snapshot(epoch: int, dice: float, margin: float, mean: float = 1.0) -> Snapshot:
    return Snapshot(epoch, f"snapshots/epoch_{epoch:04d}.pth", dice, None, 5.0, mean, margin)


SERIES = [snapshot(5, 0.90, 4), snapshot(10, 0.86, 8), snapshot(15, 0.87, 6), snapshot(20, 0.80, 12)]


def test_the_largest_margin_above_the_floor_wins() -> None:
    assert choose(SERIES, 0.85).epoch == 10
    assert choose(SERIES, 0.865).epoch == 15
    assert choose(SERIES, 0.80).epoch == 20
    assert choose(SERIES, 0.90).epoch == 5


def test_at_the_limit_the_mean_margin_decides_then_the_dice() -> None:
    limit = [snapshot(5, 0.9, 15, mean=8), snapshot(10, 0.88, 15, mean=9), snapshot(15, 0.89, 15, mean=9)]
    assert choose(limit, 0.85).epoch == 15


def test_no_snapshot_is_good_enough() -> None:
    with pytest.raises(ValueError, match=r"epoch 5, has 0\.9000"):
        choose(SERIES, 0.95)


def test_index_keeps_order_and_drops_what_a_rerun_replaces(tmp_path: Path) -> None:
    for entry in SERIES:
        add_snapshot(tmp_path, entry)
    assert read_snapshots(tmp_path) == SERIES
    again = replace(SERIES[1], clean_dice=0.5)
    add_snapshot(tmp_path, again)
    assert read_snapshots(tmp_path) == [SERIES[0], again]


def test_missing_and_damaged_index(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=INDEX):
        read_snapshots(tmp_path)
    (tmp_path / INDEX).write_text("{")
    with pytest.raises(ValueError, match=INDEX):
        read_snapshots(tmp_path)


def test_final_checkpoint_is_replaced_and_the_first_one_kept(tmp_path: Path) -> None:
    (tmp_path / "snapshots").mkdir()
    (tmp_path / FINAL).write_text("end of training")
    for entry in SERIES[:2]:
        (tmp_path / entry.file).write_text(f"epoch {entry.epoch}")
        make_final(tmp_path, entry)
        assert (tmp_path / FINAL).read_text() == f"epoch {entry.epoch}"
        assert (tmp_path / FORMER).read_text() == "end of training"
    with pytest.raises(FileNotFoundError, match="epoch_0015"):
        make_final(tmp_path, SERIES[2])
    assert (tmp_path / FINAL).read_text() == "epoch 10"


def test_table_marks_the_choice() -> None:
    lines = table(SERIES, SERIES[1]).splitlines()
    assert [line.startswith(">") for line in lines] == [False, False, True, False, False]
    assert "0.8600" in lines[2]
