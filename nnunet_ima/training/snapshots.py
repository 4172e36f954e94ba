"""The snapshots of one run, which trace the trade-off between clean Dice and margin (supplement, section C)."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch

from nnunet_ima.files import write_atomically

INDEX = "ima_snapshots.json"
FINAL = "checkpoint_final.pth"
FORMER = "checkpoint_final.former.pth"


@dataclass(frozen=True)
class Snapshot:
    """One point of the trade-off.

    Attributes:
        epoch: number of epochs done.
        file: checkpoint, relative to the fold's folder.
        clean_dice: mean foreground pseudo-Dice on clean validation patches (the same patches in every epoch).
        robust_dice: the same under PGD at `robust_eps`; None if that epoch did not measure it.
        robust_eps: noise of that attack, in the unit of the settings.
        mean_margin: mean margin of the training cases, in the unit of the settings.
        largest_margin: largest of them.
    """

    epoch: int
    file: str
    clean_dice: float
    robust_dice: float | None
    robust_eps: float
    mean_margin: float
    largest_margin: float


def read_snapshots(fold_folder: Path) -> list[Snapshot]:
    """Return the snapshots of a fold, in the order of epochs.

    Raises:
        FileNotFoundError: the fold has none.
        ValueError: the index cannot be read.
    """
    index = fold_folder / INDEX
    if not index.is_file():
        msg = f"{index} is missing: no snapshots have been taken there. Train with -tr nnUNetTrainerIMA first."
        raise FileNotFoundError(msg)
    try:
        return [Snapshot(**entry) for entry in json.loads(index.read_text())["snapshots"]]
    except (json.JSONDecodeError, KeyError, TypeError) as error:
        msg = f"{index} cannot be read as an index of snapshots: {error}"
        raise ValueError(msg) from error


def add_snapshot(fold_folder: Path, snapshot: Snapshot) -> None:
    """Enter a snapshot into the index; it replaces the one of the same epoch and any of later ones.

    A training that begins anew, or resumes from an earlier checkpoint, thus leaves no stale entries behind.
    """
    known = read_snapshots(fold_folder) if (fold_folder / INDEX).is_file() else []
    kept = [entry for entry in known if entry.epoch < snapshot.epoch]
    write_atomically(
        fold_folder / INDEX,
        json.dumps({"snapshots": [asdict(entry) for entry in [*kept, snapshot]]}, indent=2) + "\n",
    )


def choose(snapshots: Sequence[Snapshot], min_dice: float) -> Snapshot:
    """Return the snapshot with the largest margin whose clean Dice is at least `min_dice`.

    Once the largest margin of all cases has reached its limit, the mean margin tells them apart, then the clean Dice.

    Raises:
        ValueError: none is good enough; the message names the best.
    """
    acceptable = [snapshot for snapshot in snapshots if snapshot.clean_dice >= min_dice]
    if not acceptable:
        best = max(snapshots, key=lambda snapshot: snapshot.clean_dice, default=None)
        found = f"the best, of epoch {best.epoch}, has {best.clean_dice:.4f}" if best else "there is none"
        msg = f"no snapshot has a clean Dice of at least {min_dice:g}; {found}"
        raise ValueError(msg)
    return max(acceptable, key=lambda snapshot: (snapshot.largest_margin, snapshot.mean_margin, snapshot.clean_dice))


def table(snapshots: Sequence[Snapshot], chosen: Snapshot) -> str:
    """The snapshots as lines of text, the chosen one marked."""
    lines = [f"  {'epoch':>5}  {'clean Dice':>10}  {'robust Dice':>18}  {'mean margin':>11}  {'largest margin':>14}"]
    for snapshot in snapshots:
        robust = "-"
        if snapshot.robust_dice is not None:
            robust = f"{snapshot.robust_dice:.4f} at ε = {snapshot.robust_eps:g}"
        lines.append(
            f"{'>' if snapshot == chosen else ' '} {snapshot.epoch:>5}  {snapshot.clean_dice:>10.4f}  {robust:>18}  "
            f"{snapshot.mean_margin:>11.4g}  {snapshot.largest_margin:>14.4g}"
        )
    return "\n".join(lines)


def make_final(fold_folder: Path, snapshot: Snapshot) -> Path:
    """Make a snapshot the fold's final checkpoint, and return that file.

    The checkpoint of the training's end is kept as checkpoint_final.former.pth, however often this is called.

    Raises:
        FileNotFoundError: the snapshot's file is missing.
    """
    source, final, former = fold_folder / snapshot.file, fold_folder / FINAL, fold_folder / FORMER
    if not source.is_file():
        msg = f"{source} is missing, though {INDEX} lists it"
        raise FileNotFoundError(msg)
    part = final.with_name(final.name + ".part")
    shutil.copyfile(source, part)
    if final.is_file() and not former.exists():
        shutil.copyfile(final, former)
    os.replace(part, final)
    return final


def export_stock(model_folder: Path, fold: str, snapshot: Snapshot, target: Path) -> None:
    """Write a model folder that nnU-Net can use without this package; the network is the same.

    Args:
        model_folder: results folder of the training.
        fold: name of the fold's folder.
        snapshot: which weights.
        target: folder to write; it may hold other folds of the same model already.
    """
    checkpoint = torch.load(model_folder / fold / snapshot.file, map_location="cpu", weights_only=False)
    checkpoint["trainer_name"] = "nnUNetTrainer"
    checkpoint["init_args"].pop("nnunet_ima", None)
    (target / fold).mkdir(parents=True, exist_ok=True)
    for name in ("plans.json", "dataset.json", "dataset_fingerprint.json"):
        if (model_folder / name).is_file():
            shutil.copyfile(model_folder / name, target / name)
    torch.save(checkpoint, target / fold / FINAL)
