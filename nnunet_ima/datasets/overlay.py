"""What this package adds to nnU-Net's plans: CPU-sized configurations and the settings of IMA training."""

from __future__ import annotations

import json
from collections.abc import Mapping
from copy import deepcopy
from math import prod
from pathlib import Path
from typing import Any

from nnunet_ima.datasets.tasks import CpuConfiguration
from nnunet_ima.files import write_atomically

# For data sets without a packaged plan, the phantom among them.
GENERIC_CPU: dict[str, CpuConfiguration] = {
    "2d_cpu": CpuConfiguration("2d", features=(16, 128), batch_size=16, patch_size_cap=(192, 192)),
    "3d_fullres_cpu": CpuConfiguration("3d_fullres", (8, 64), batch_size=2, patch_size_cap=(64, 64, 64)),
}


def overlay(
    plans: Mapping[str, Any],
    cpu: Mapping[str, CpuConfiguration],
    settings: Mapping[str, Mapping[str, Any]] | None = None,
) -> dict[str, Any]:
    """Return a copy of nnU-Net's plans with CPU-sized configurations and settings of our trainings.

    A CPU-sized configuration inherits from its parent and shares its preprocessed data. It is left out where the plans
    have no such parent (small images have no 3d_lowres, for example).

    Args:
        plans: content of a plans JSON.
        cpu: the configurations to add, by name.
        settings: by the key that they stand under, such as "schedule" and "ima"; None: none.

    Raises:
        ValueError: the parent's network has no features_per_stage (it is not a U-Net of nnU-Net).
    """
    result: dict[str, Any] = deepcopy(dict(plans))
    for name, wanted in cpu.items():
        if wanted.inherits_from in plans["configurations"]:
            result["configurations"][name] = _cpu_configuration(plans["configurations"], wanted)
    return result | {key: dict(values) for key, values in (settings or {}).items()}


def write_plans(plans: Mapping[str, Any], file: Path) -> None:
    """Write a plans JSON atomically: a reader sees the old file or the new one, never a part of it."""
    write_atomically(file, json.dumps(plans, indent=4))


def read_plans(file: Path) -> dict[str, Any]:
    """Read a plans JSON.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is not a plans JSON.
    """
    if not file.is_file():
        available = sorted(other.stem for other in file.parent.glob("*Plans*.json"))
        msg = f"{file} does not exist; the plans in that folder are {', '.join(available) or 'none'}"
        raise FileNotFoundError(msg)
    try:
        plans = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        msg = f"{file} is not valid JSON: {error}"
        raise ValueError(msg) from error
    if not isinstance(plans, dict) or not isinstance(plans.get("configurations"), dict):
        msg = f"{file} is not a plans file of nnU-Net (it has no configurations)"
        raise ValueError(msg)
    if not isinstance(plans.get("dataset_name"), str):
        msg = f"{file} is not a plans file of nnU-Net (it has no dataset_name)"
        raise ValueError(msg)
    return plans


def _cpu_configuration(configurations: Mapping[str, Any], wanted: CpuConfiguration) -> dict[str, Any]:
    parent = _resolve(configurations, wanted.inherits_from)
    architecture = deepcopy(parent.get("architecture", {}))
    kwargs = architecture.get("arch_kwargs", {})
    if "features_per_stage" not in kwargs:
        msg = (
            f"configuration {wanted.inherits_from} has no features_per_stage, so no CPU-sized copy can be made of it; "
            "plan the data set with nnU-Net's default or residual encoder planner"
        )
        raise ValueError(msg)
    base, largest = wanted.features
    kwargs["features_per_stage"] = [min(base * 2**stage, largest) for stage in range(len(kwargs["features_per_stage"]))]
    configuration = {
        "inherits_from": wanted.inherits_from,
        "batch_size": wanted.batch_size,
        "architecture": architecture,
    }
    patch_size = _cap_patch_size(parent["patch_size"], wanted.patch_size_cap, kwargs["strides"])
    if patch_size != list(parent["patch_size"]):
        configuration["patch_size"] = patch_size
    return configuration


def _resolve(configurations: Mapping[str, Any], name: str) -> dict[str, Any]:
    """Return a configuration with everything that it inherits."""
    configuration = configurations[name]
    if "inherits_from" not in configuration:
        return dict(configuration)
    return {**_resolve(configurations, configuration["inherits_from"]), **configuration}


def _cap_patch_size(patch_size: list[int], cap: tuple[int, ...] | None, strides: list[Any]) -> list[int]:
    """Shrink a patch to at most `cap`, keeping each axis a multiple of the network's total stride along it.

    An axis keeps at least two positions at the network's deepest stage: instance normalisation needs more than one.
    """
    if cap is None:
        return list(patch_size)
    axes = range(len(patch_size))
    totals = [prod(stride if isinstance(stride, int) else stride[axis] for stride in strides) for axis in axes]
    shrunk = [max(largest // total, 2) * total for largest, total in zip(cap, totals, strict=True)]
    return [min(size, small) for size, small in zip(patch_size, shrunk, strict=True)]
