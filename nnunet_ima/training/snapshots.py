"""The snapshots of one run, which trace the trade-off between clean Dice and margin (supplement, section C)."""

from __future__ import annotations

import json
import reprlib
import shutil
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import torch

from nnunet_ima.checkpoints import load_checkpoint, refuse_not_finite
from nnunet_ima.files import atomic_file, read_json, write_atomically
from nnunet_ima.methods.averaging import WeightAverage

INDEX = "ima_snapshots.json"
FINAL = "checkpoint_final.pth"
FORMER = "checkpoint_final.former.pth"
RAW, AVERAGED = "raw", "averaged"
MARGIN, ROBUST = "margin", "robust"


@dataclass(frozen=True)
class Snapshot:
    """One point of the trade-off.

    Attributes:
        epoch: number of epochs done.
        weights: which weights of that epoch, `RAW` or `AVERAGED`; one checkpoint holds both.
        file: checkpoint, relative to the fold's folder.
        clean_dice: mean foreground pseudo-Dice on clean validation patches (the same patches in every epoch).
        robust_dice: the same under PGD at `robust_eps`; None if that epoch did not measure it.
        robust_eps: noise of that attack, in the unit of the settings.
        mean_margin: mean margin of the training samples, in the unit of the settings; None: the method has none.
        largest_margin: largest of them.
    """

    epoch: int
    file: str
    clean_dice: float
    robust_dice: float | None
    robust_eps: float
    mean_margin: float | None
    largest_margin: float | None
    weights: str = RAW

    def __str__(self) -> str:
        return f"epoch {self.epoch}" + (f", {self.weights}" if self.weights != RAW else "")


def read_snapshots(fold_folder: Path) -> list[Snapshot]:
    """Return the snapshots of a fold, in the order of epochs.

    Raises:
        FileNotFoundError: the fold has none.
        ValueError: the index cannot be read, or an entry is none of a snapshot in that folder.
    """
    index = fold_folder / INDEX
    return [_snapshot(entry, place, index) for place, entry in enumerate(_entries(index), 1)]


def _entries(index: Path) -> list[dict[str, Any]]:
    content = read_json(
        index,
        missing="no snapshots have been taken there; train with nnUNetTrainerIMA or its siblings first",
    )
    entries = content.get("snapshots") if isinstance(content, dict) else None
    if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
        msg = f"{index} is no index of snapshots: it holds no list of entries"
        raise ValueError(msg)
    return entries


def _snapshot(entry: dict[str, Any], place: int, index: Path) -> Snapshot:
    """An entry of the index, which may come from somebody else, checked."""
    names = {field.name for field in fields(Snapshot)}
    if set(entry) | {"weights"} != names:  # release 0.1 knew none but the raw weights
        msg = f"{index}: entry {place} must have exactly {', '.join(sorted(names))}, got {reprlib.repr(entry)}"
        raise ValueError(msg)
    for name, value in entry.items():
        if name == "file":
            fits, expected = isinstance(value, str) and _is_inside(index.parent, value), "a file in the fold's folder"
        elif name == "epoch":
            fits, expected = isinstance(value, int) and not isinstance(value, bool), "a whole number"
        elif name == "weights":
            fits, expected = value in (RAW, AVERAGED), f"{RAW} or {AVERAGED}"
        else:
            fits = _is_number(value) or (value is None and name in ("robust_dice", "mean_margin", "largest_margin"))
            expected = "a finite number"
        if not fits:
            msg = f"{index}: {name} of entry {place} must be {expected}, got {reprlib.repr(value)}; remove the entry"
            raise ValueError(msg)
    return Snapshot(**entry)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) <= sys.float_info.max


def _is_inside(folder: Path, file: str) -> bool:
    """Whether a file lies in a folder, wherever links lead; the folder itself may be a link."""
    home = folder.resolve()
    try:
        return home in (folder / file).resolve().parents
    except (ValueError, RuntimeError):  # a character that no path has, a link to itself
        return False


def add_snapshots(fold_folder: Path, snapshots: Sequence[Snapshot]) -> None:
    """Enter the snapshots of an epoch into the index; they replace those of the same epoch and of later ones.

    A training that begins anew, or resumes from an earlier checkpoint, thus leaves no stale entries behind.
    """
    # Not checked further: a training whose validation patches hold no foreground has a Dice of NaN, and goes on.
    kept = [entry for entry in _known(fold_folder / INDEX) if entry["epoch"] < snapshots[0].epoch]
    write_atomically(
        fold_folder / INDEX,
        json.dumps({"snapshots": [*kept, *map(asdict, snapshots)]}, indent=2) + "\n",
    )


def _known(index: Path) -> list[dict[str, Any]]:
    """Entries of the index; a damaged one is put aside, as a training of days is worth more than its list."""
    if not index.is_file():
        return []
    try:
        entries = _entries(index)
        if not all(isinstance(entry.get("epoch"), int) for entry in entries):
            raise ValueError(f"{index} is damaged: an entry has no epoch")
    except ValueError as error:
        aside = index.replace(index.with_suffix(".damaged"))
        print(f"{error}; it is kept as {aside.name}, and a new one begun: earlier snapshots are not in it")
        return []
    return entries


def choose(snapshots: Sequence[Snapshot], min_dice: float, by: str = MARGIN) -> Snapshot:
    """Return the most robust snapshot whose clean Dice is at least `min_dice`.

    Args:
        snapshots: of one training.
        min_dice: lowest clean Dice that is acceptable.
        by: `MARGIN`, the largest margin (once it has reached its limit, the mean margin), as the paper chooses; raw and
            averaged weights of an epoch, and the epochs of a method without margins, are told apart by robust Dice.
            `ROBUST`, the highest robust Dice, among the snapshots of which it was measured.

    Raises:
        ValueError: none is good enough, and the message names the best; or robust Dice was measured of none.
    """
    if by == ROBUST and not (snapshots := [entry for entry in snapshots if entry.robust_dice is not None]):
        msg = "no snapshot has a robust Dice: the setting robust_interval was 0; choose by margin"
        raise ValueError(msg)
    acceptable = [snapshot for snapshot in snapshots if snapshot.clean_dice >= min_dice]
    if not acceptable:
        best = max(snapshots, key=lambda snapshot: snapshot.clean_dice, default=None)
        found = f"the best, of {best}, has {best.clean_dice:.4f}" if best else "there is none"
        msg = f"no snapshot has a clean Dice of at least {min_dice:g}; {found}"
        raise ValueError(msg)
    return max(acceptable, key=_by_margin if by == MARGIN else _by_robust_dice)


def _by_margin(snapshot: Snapshot) -> tuple[float, ...]:
    return (snapshot.largest_margin or 0.0, snapshot.mean_margin or 0.0, *_by_robust_dice(snapshot))


def _by_robust_dice(snapshot: Snapshot) -> tuple[float, ...]:
    return (-1.0 if snapshot.robust_dice is None else snapshot.robust_dice, snapshot.clean_dice)


def table(snapshots: Sequence[Snapshot], chosen: Snapshot) -> str:
    """The snapshots as lines of text, the chosen one marked."""
    line = "{:1} {:>5}  {:>8}  {:>10}  {:>18}  {:>11}  {:>14}".format
    lines = [line("", "epoch", "weights", "clean Dice", "robust Dice", "mean margin", "largest margin")]
    for entry in snapshots:
        robust = "-" if entry.robust_dice is None else f"{entry.robust_dice:.4f} at ε = {entry.robust_eps:g}"
        margins = _shown(entry.mean_margin), _shown(entry.largest_margin)
        marked = ">" if entry == chosen else ""
        lines.append(line(marked, entry.epoch, entry.weights, f"{entry.clean_dice:.4f}", robust, *margins))
    return "\n".join(lines)


def _shown(margin: float | None) -> str:
    return "-" if margin is None else f"{margin:.4g}"


def load_snapshot(fold_folder: Path, snapshot: Snapshot) -> dict[str, Any]:
    """Read a snapshot's checkpoint, its weights in nnU-Net's place; nothing in it is run.

    Raises:
        FileNotFoundError: the file is missing.
        ValueError: it lies outside the fold's folder, is damaged, would run code or holds weights that are not finite.
    """
    file = fold_folder / snapshot.file
    if not _is_inside(fold_folder, snapshot.file):
        msg = f"{file}, of epoch {snapshot.epoch}, lies outside {fold_folder}; copy the snapshot into it"
        raise ValueError(msg)
    if not file.is_file():
        msg = f"{file} is missing, though {INDEX} lists it"
        raise FileNotFoundError(msg)
    way_out = "nnUNetTrainerIMA writes no such snapshots: take one from where the model was trained"
    checkpoint = load_checkpoint(file, needs=("network_weights", "init_args", "trainer_name"), way_out=way_out)
    if not all(isinstance(checkpoint[entry], dict) for entry in ("network_weights", "init_args")):
        msg = f"{file} was not written by nnU-Net: its network_weights and init_args must be dictionaries"
        raise ValueError(msg)
    if snapshot.weights == AVERAGED:
        ours = checkpoint["init_args"].get("nnunet_ima")
        average = ours.get("average") if isinstance(ours, dict) else None
        averaged = WeightAverage.weights(average) if isinstance(average, dict) else {}
        if set(averaged) != set(checkpoint["network_weights"]):
            msg = f"{file} holds no averaged weights, though {INDEX} lists them"
            raise ValueError(msg)
        checkpoint["network_weights"] = averaged
    refuse_not_finite(checkpoint["network_weights"], file)
    return checkpoint


def make_final(fold_folder: Path, snapshot: Snapshot) -> Path:
    """Make a snapshot the fold's final checkpoint, and return that file.

    The checkpoint of the training's end is kept as checkpoint_final.former.pth, however often this is called.

    Raises:
        FileNotFoundError: the snapshot's file is missing.
        ValueError: it cannot be used, see `load_snapshot`.
    """
    checkpoint = load_snapshot(fold_folder, snapshot)
    final, former = fold_folder / FINAL, fold_folder / FORMER
    if final.is_file() and not former.exists():
        with final.open("rb") as content, atomic_file(former) as stream:
            shutil.copyfileobj(content, stream)
    _write(checkpoint, final)
    return final


def export_stock(model_folder: Path, fold: str, snapshot: Snapshot, target: Path) -> None:
    """Write a model folder that nnU-Net can use without this package; the network is the same.

    Args:
        model_folder: results folder of the training.
        fold: name of the fold's folder.
        snapshot: which weights.
        target: folder to write; it may hold other folds of the same model already.

    Raises:
        FileNotFoundError: the snapshot's file is missing.
        ValueError: it cannot be used, see `load_snapshot`, or the target is the model's own folder.
    """
    if (target / fold).resolve() == (model_folder / fold).resolve():
        msg = f"{target} is the folder of the model itself; export it into another one"
        raise ValueError(msg)
    checkpoint = load_snapshot(model_folder / fold, snapshot)
    checkpoint["trainer_name"] = "nnUNetTrainer"
    checkpoint["init_args"].pop("nnunet_ima", None)
    (target / fold).mkdir(parents=True, exist_ok=True)
    for name in ("plans.json", "dataset.json", "dataset_fingerprint.json"):
        if (model_folder / name).is_file() and _is_inside(model_folder, name):
            shutil.copyfile(model_folder / name, target / name)
    _write(checkpoint, target / fold / FINAL)


def _write(checkpoint: dict[str, Any], file: Path) -> None:
    with atomic_file(file) as stream:
        torch.save(checkpoint, stream)
