from __future__ import annotations

import os
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any, BinaryIO

import pytest
import torch

from nnunet_ima.training.snapshots import (
    AVERAGED,
    FINAL,
    FORMER,
    INDEX,
    Snapshot,
    add_snapshots,
    choose,
    export_stock,
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
        add_snapshots(tmp_path, [entry])
    assert read_snapshots(tmp_path) == SERIES
    again = replace(SERIES[1], clean_dice=0.5)
    add_snapshots(tmp_path, [again, replace(again, weights=AVERAGED)])
    assert read_snapshots(tmp_path) == [SERIES[0], again, replace(again, weights=AVERAGED)]


@pytest.mark.parametrize("content", ["", '{"snapshots": [', "[]", '{"snapshots": [{"file": "a"}]}', "\0" * 40])
def test_a_training_outlives_a_damaged_index(content: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / INDEX).write_text(content)
    add_snapshots(tmp_path, [SERIES[0]])
    assert read_snapshots(tmp_path) == [SERIES[0]]
    assert (tmp_path / "ima_snapshots.damaged").read_text() == content
    assert "it is kept as ima_snapshots.damaged" in capsys.readouterr().out


def test_raw_and_averaged_weights_are_told_apart_by_robust_dice() -> None:
    raw = replace(SERIES[0], robust_dice=0.60)
    averaged = replace(raw, weights=AVERAGED, robust_dice=0.62, clean_dice=0.89)
    assert choose([raw, averaged, SERIES[3]], 0.85) == averaged
    assert choose([raw, averaged], 0.895) == raw


def test_robust_dice_decides_if_asked() -> None:
    series = [replace(entry, robust_dice=dice) for entry, dice in zip(SERIES, (0.5, 0.6, 0.7, None), strict=True)]
    assert choose(series, 0.85, "robust").epoch == 15
    assert choose(series, 0.90, "robust").epoch == 5
    with pytest.raises(ValueError, match="no snapshot has a robust Dice"):
        choose(SERIES, 0.85, "robust")


def test_an_index_of_the_first_release_knows_raw_weights_only(tmp_path: Path) -> None:
    add_snapshots(tmp_path, [SERIES[0]])
    index = tmp_path / INDEX
    index.write_text(
        index.read_text().replace(
            """,
      "weights": "raw\"""",
            "",
        )
    )
    assert "weights" not in index.read_text()
    assert read_snapshots(tmp_path) == [SERIES[0]]
    index.write_text(index.read_text().replace('"epoch": 5', '"epoch": 5, "weights": "best"'))
    with pytest.raises(ValueError, match="weights of entry 1 must be raw or averaged, got 'best'"):
        read_snapshots(tmp_path)


def test_missing_and_damaged_index(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=INDEX):
        read_snapshots(tmp_path)
    (tmp_path / INDEX).write_text("{")
    with pytest.raises(ValueError, match=INDEX):
        read_snapshots(tmp_path)


def write(fold: Path, entry: Snapshot, **changes: Any) -> Path:
    """A snapshot with weights that tell its epoch."""
    file = fold / entry.file
    file.parent.mkdir(parents=True, exist_ok=True)
    weights = {"stage.weight": torch.full((2,), float(entry.epoch))}
    content = {
        "network_weights": weights,
        "trainer_name": "nnUNetTrainerIMA",
        "init_args": {"nnunet_ima": 1, "fold": 0},
    }
    torch.save(content | changes, file)
    return file


def epoch_of(file: Path) -> int:
    return int(torch.load(file, weights_only=True)["network_weights"]["stage.weight"][0])


def test_final_checkpoint_is_replaced_and_the_first_one_kept(tmp_path: Path) -> None:
    (tmp_path / FINAL).write_text("end of training")
    for entry in SERIES[:2]:
        write(tmp_path, entry)
        make_final(tmp_path, entry)
        assert epoch_of(tmp_path / FINAL) == entry.epoch
        assert (tmp_path / FORMER).read_text() == "end of training"
    with pytest.raises(FileNotFoundError, match="epoch_0015"):
        make_final(tmp_path, SERIES[2])
    assert epoch_of(tmp_path / FINAL) == 10
    assert sorted(file.name for file in tmp_path.iterdir()) == [FORMER, FINAL, "snapshots"]


def test_an_interrupted_replacement_leaves_the_former_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path, SERIES[0])
    (tmp_path / FINAL).write_text("end of training")

    def disk_full(source: BinaryIO, target: BinaryIO) -> None:
        target.write(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(shutil, "copyfileobj", disk_full)
    with pytest.raises(OSError, match="No space left"):
        make_final(tmp_path, SERIES[0])
    assert (tmp_path / FINAL).read_text() == "end of training"
    assert sorted(file.name for file in tmp_path.iterdir()) == [FINAL, "snapshots"]


class Evil:
    """Makes a folder when it is unpickled."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.marker),)


@pytest.fixture
def fold(tmp_path: Path) -> Path:
    fold = tmp_path / "model" / "fold_0"
    fold.mkdir(parents=True)
    (fold.parent / "plans.json").write_text("{}")
    (fold / FINAL).write_text("end of training")
    return fold


def test_snapshot_with_code_is_refused_and_nothing_replaced(fold: Path, tmp_path: Path) -> None:
    file = write(fold, SERIES[0], logging=Evil(tmp_path / "marker"))
    for use in (lambda: make_final(fold, SERIES[0]), lambda: export(fold, tmp_path / "stock")):
        with pytest.raises(ValueError, match=r"epoch_0005\.pth would run code .*mkdir.*take one from") as caught:
            use()
        assert "--trust-checkpoint" not in str(caught.value)
    assert not (tmp_path / "marker").exists()
    assert not (tmp_path / "stock").exists()
    assert (fold / FINAL).read_text() == "end of training"
    torch.load(file, weights_only=False)
    assert (tmp_path / "marker").exists()  # the trap works


def export(fold: Path, target: Path) -> None:
    export_stock(fold.parent, fold.name, SERIES[0], target)


def test_averaged_weights_take_the_place_of_the_raw_ones(fold: Path, tmp_path: Path) -> None:
    entry = replace(SERIES[0], weights=AVERAGED)
    write(fold, entry)
    with pytest.raises(ValueError, match="holds no averaged weights"):
        make_final(fold, entry)
    average = {"module.stage.weight": torch.full((2,), 77.0), "n_averaged": torch.tensor(3)}
    write(fold, entry, init_args={"nnunet_ima": {"average": average}})
    assert epoch_of(make_final(fold, entry)) == 77
    export_stock(fold.parent, fold.name, entry, tmp_path / "stock")
    assert epoch_of(tmp_path / "stock" / "fold_0" / FINAL) == 77


def test_exported_model_is_plain_nnunets(fold: Path, tmp_path: Path) -> None:
    write(fold, SERIES[0])
    export(fold, tmp_path / "stock")
    exported = torch.load(tmp_path / "stock" / "fold_0" / FINAL, weights_only=True)
    assert exported["trainer_name"] == "nnUNetTrainer"
    assert exported["init_args"] == {"fold": 0}
    assert (tmp_path / "stock" / "plans.json").read_text() == "{}"
    assert [file.name for file in (tmp_path / "stock" / "fold_0").iterdir()] == [FINAL]


def test_export_does_not_follow_links_out_of_the_model(fold: Path, tmp_path: Path) -> None:
    write(fold, SERIES[0])
    (tmp_path / "secret").write_text("of the user")
    (fold.parent / "dataset.json").symlink_to(tmp_path / "secret")
    export(fold, tmp_path / "stock")
    assert not (tmp_path / "stock" / "dataset.json").exists()


@pytest.mark.parametrize("way", ["same", "dots", "link"])
def test_export_into_the_model_itself_is_refused(fold: Path, tmp_path: Path, way: str) -> None:
    write(fold, SERIES[0])
    (tmp_path / "link").symlink_to(fold.parent)
    target = {"same": fold.parent, "dots": fold / "..", "link": tmp_path / "link"}[way]
    with pytest.raises(ValueError, match="is the folder of the model itself"):
        export(fold, target)
    assert (fold / FINAL).read_text() == "end of training"


def test_snapshots_outside_the_fold_are_refused(fold: Path, tmp_path: Path) -> None:
    outside = write(tmp_path, SERIES[0])
    (fold / "snapshots").mkdir()
    (fold / "snapshots" / "link.pth").symlink_to(outside)
    for place in ("../../snapshots/epoch_0005.pth", str(outside), "snapshots/link.pth", "", ".", "a\0b"):
        entry = replace(SERIES[0], file=place)
        with pytest.raises(ValueError, match="lies outside"):
            make_final(fold, entry)
        add_snapshots(fold, [entry])
        with pytest.raises(ValueError, match=r"file of entry 1 must be a file in the fold's folder"):
            read_snapshots(fold)
    assert (fold / FINAL).read_text() == "end of training"


def test_a_fold_reached_through_a_link_is_no_way_out(fold: Path, tmp_path: Path) -> None:
    write(fold, SERIES[0])
    (tmp_path / "elsewhere").symlink_to(fold.parent)
    make_final(tmp_path / "elsewhere" / "fold_0", SERIES[0])
    assert epoch_of(fold / FINAL) == 5


def test_a_dice_of_nan_does_not_end_a_training(tmp_path: Path) -> None:
    add_snapshots(tmp_path, [replace(SERIES[0], clean_dice=float("nan"))])
    add_snapshots(tmp_path, [SERIES[1]])
    with pytest.raises(ValueError, match=r"clean_dice of entry 1 must be a finite number, got nan; remove the entry"):
        read_snapshots(tmp_path)


def test_table_marks_the_choice() -> None:
    lines = table(SERIES, SERIES[1]).splitlines()
    assert [line.startswith(">") for line in lines] == [False, False, True, False, False]
    assert "0.8600" in lines[2]
