"""A folder belongs to one training: training.json says to which."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from nnunet_ima.classification.settings import LOOKS, Settings
from nnunet_ima.classification.training_data import TrainingData
from nnunet_ima.evidence.store import sha256
from nnunet_ima.files import read_json, write_atomically

FILE = "training.json"


def check_claim(folder: Path, settings: Settings, data: TrainingData) -> None:
    """Find out whether a folder can be claimed for a training; nothing is written.

    Raises:
        ValueError: it is that of another training, holds other files, or is no folder.
    """
    _compare(folder, _description(settings, data))


def claim(folder: Path, settings: Settings, data: TrainingData, start: Path | None = None) -> None:
    """Make a folder that of a training which begins with the weights in `start`.

    Raises:
        ValueError: as `check_claim`, or the training there began with other weights.
    """
    wanted = _description(settings, data) | {"start": None if start is None else sha256([start])}
    _compare(folder, wanted)
    if not (folder / FILE).is_file():
        folder.mkdir(parents=True, exist_ok=True)
        write_atomically(folder / FILE, json.dumps(wanted, indent=1) + "\n")


def _description(settings: Settings, data: TrainingData) -> dict[str, Any]:
    return {"settings": settings.as_dict(), "data": data.digest, "classes": list(data.classes)}


def _compare(folder: Path, wanted: dict[str, Any]) -> None:
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"{folder} is no folder; choose another --output")
    if not (folder / FILE).is_file():
        present = sorted(path.name for path in folder.iterdir()) if folder.exists() else []
        if strange := [name for name in present if not name.startswith(".")]:
            raise ValueError(f"{folder} holds other files ({', '.join(strange[:3])}); choose another --output")
        return
    way_out = "remove the folder to train again"
    stored = read_json(folder / FILE, damaged=way_out)
    if not isinstance(stored, dict) or not isinstance(former := stored.get("settings"), dict):
        raise ValueError(f"{folder / FILE} does not describe a training; {way_out}")
    differing = [key for key in wanted if key != "settings" and stored.get(key) != wanted[key]]
    differing += [key for key, value in wanted["settings"].items() if former.get(key) != value and key not in LOOKS]
    if differing:
        msg = f"{folder} holds a training with other {', '.join(differing)}; choose another --output, or remove it"
        raise ValueError(msg)
