"""The tasks of the paper, read from the packaged plans (`plans/D2.json` and its siblings)."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class CpuConfiguration:
    """A configuration small enough for a CPU that inherits from one of nnU-Net's own.

    Attributes:
        inherits_from: configuration of nnU-Net that it copies.
        features: features of the first stage, and the most that a stage may have; they double in between.
        batch_size: samples per batch.
        patch_size_cap: largest patch size per axis, in the axis order of the plans; None leaves it as it is.
    """

    inherits_from: str
    features: tuple[int, int]
    batch_size: int
    patch_size_cap: tuple[int, ...] | None = None


@dataclass(frozen=True)
class Task:
    """A task: which archive it comes from and how one trains and audits on it.

    Attributes:
        name: the paper's name of the task, for example "D4".
        dataset_id: number of the data set in the Decathlon and in nnU-Net.
        dataset_name: its name, for example "Hippocampus".
        archive: folder name of the original archive.
        schedule: settings of all trainings that differ from the defaults, as for that key of the plans JSON.
        ima: the same of IMA's own; the noise of other methods follows from its largest margin.
        reference_shape: shape (C, *spatial) of the network input at which the paper quotes its ε.
        audit_eps: noise levels of an audit, in the paper's unit of ε.
        cpu: CPU-sized configurations by name.
    """

    name: str
    dataset_id: int
    dataset_name: str
    archive: str
    schedule: dict[str, Any]
    ima: dict[str, Any]
    reference_shape: tuple[int, ...]
    audit_eps: tuple[float, ...]
    cpu: dict[str, CpuConfiguration]


def plans_folder() -> Path:
    """Return the folder of the packaged plans: inside the package in a wheel, beside it in a checkout."""
    package = Path(__file__).resolve().parents[1]
    inside = package / "plans"
    return inside if inside.is_dir() else package.parent / "plans"


def task_names() -> tuple[str, ...]:
    """Return the names of all packaged segmentation tasks."""
    return tuple(sorted(file.stem for file in plans_folder().glob("D[0-9]*.json")))


@cache
def load_task(name: str) -> Task:
    """Return a packaged task.

    Args:
        name: name of the task, for example "D4".

    Raises:
        ValueError: there is no such task, or its file is damaged.
    """
    if name not in task_names():
        msg = f"unknown task {name!r}; known are {', '.join(task_names())}"
        raise ValueError(msg)
    file = plans_folder() / f"{name}.json"
    try:
        return _task_from_json(json.loads(file.read_text(encoding="utf-8")))
    except (KeyError, TypeError, ValueError) as error:
        msg = f"{file} is not a plan of a task: {error!r}"
        raise ValueError(msg) from error


def find_task(dataset_name_or_id: str | int) -> Task | None:
    """Return the task that a data set of nnU-Net belongs to, or None.

    A name decides alone: "Dataset104_Hippocampus" is D4, "Dataset004_Spleen" is none. Only a bare number is looked up
    by the id of the data set.

    Args:
        dataset_name_or_id: "Dataset004_Hippocampus", "Hippocampus", "4" or 4.
    """
    tasks = [load_task(name) for name in task_names()]
    text = str(dataset_name_or_id).strip()
    if text.isdecimal():
        return next((task for task in tasks if task.dataset_id == int(text)), None)
    name = re.sub(r"^Dataset\d+_", "", text).casefold()
    return next((task for task in tasks if task.dataset_name.casefold() == name), None)


def _task_from_json(plan: Mapping[str, Any]) -> Task:
    return Task(
        name=plan["task"],
        dataset_id=plan["dataset_id"],
        dataset_name=plan["dataset_name"],
        archive=plan["archive"],
        schedule=dict(plan["schedule"]),
        ima=dict(plan["ima"]),
        reference_shape=tuple(plan["reference_shape"]),
        audit_eps=tuple(plan["audit"]["eps"]),
        cpu={name: _cpu_from_json(entry) for name, entry in plan["cpu"].items()},
    )


def _cpu_from_json(entry: Mapping[str, Any]) -> CpuConfiguration:
    base, largest = entry["features"]
    cap = entry.get("patch_size_cap")
    return CpuConfiguration(
        inherits_from=entry["inherits_from"],
        features=(base, largest),
        batch_size=entry["batch_size"],
        patch_size_cap=None if cap is None else tuple(cap),
    )
