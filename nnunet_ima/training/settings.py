"""The settings of a training run, read from the plans JSON."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

from nnunet_ima.datasets.tasks import find_task
from nnunet_ima.ranges import Range as _Range

PRESETS: dict[str, dict[str, Any]] = {
    # Fewer, larger steps; the first one rides on the gradient of the clean pass.
    "default": {"pgd_steps": 7, "alpha": 4.0, "start": "gradient", "bisection_tolerance": 0.05},
    # Algorithm 3 with the paper's numbers.
    "paper": {"pgd_steps": 20, "alpha": 4.0, "start": "random", "bisection_tolerance": 0.01},
}


@dataclass(frozen=True)
class Settings:
    """Settings of IMA training; key "ima" of the plans JSON holds any subset of them.

    Margins (`eps_max`, `delta`, `robust_eps`) are in the paper's unit: the L2 norm on a network input of
    `reference_elements` elements, in standard deviations of the normalised image. With the default of one
    reference element the unit is RMS noise per voxel. For the L∞ norm they are the largest change of a voxel.

    Attributes:
        preset: "default" (few, better steps) or "paper" (20 steps); it fills the attack's settings not given.
        norm: "L2" or "Linf".
        eps_max: largest margin.
        delta: margin expansion per epoch; also the first margin.
        reference_elements: N_ref, the number of elements at which an L2 margin is quoted.
        beta: weight of the boundary samples in the loss, in [0, 1].
        pgd_steps: gradient steps of one attack (N_PGD).
        alpha: step factor; each step has the size alpha * margin / pgd_steps.
        start: "random" (Algorithm 3) or "gradient": the first step follows the gradient of the clean pass,
            which is computed anyway.
        bisection_tolerance: length, as a share of the margin, at which the search for the boundary ends.
        bisection_steps: most evaluations of that search (N_bin).
        tau: Dice at which the model counts as right on a patch.
        reduction: how the Dice of the classes present is reduced: "mean", "max" (the reference) or "min".
        margin_key: what has a margin of its own: "sample" (in 2D a slice of a case, in 3D a case) or "case".
        epochs: number of epochs.
        iterations_per_epoch: optimiser steps per epoch.
        snapshot_interval: epochs between two snapshots; a resumable checkpoint is written as often.
        robust_interval: epochs between two measurements of the robust validation Dice; 0 switches it off.
        robust_eps: noise of that measurement; None takes half of eps_max.
        robust_steps: PGD steps of that measurement.
        seed: seeds weights, data order, augmentation and attack.
        start_from: a finished training of the same data set to begin from: a results folder name such as
            "nnUNetTrainer__nnUNetPlans__2d", a path to such a folder or to a checkpoint file; None: from scratch.
    """

    preset: str = "default"
    norm: str = "L2"
    eps_max: float = 0.1
    delta: float = 0.005
    reference_elements: int = 1
    beta: float = 0.5
    pgd_steps: int = 7
    alpha: float = 4.0
    start: str = "gradient"
    bisection_tolerance: float = 0.05
    bisection_steps: int = 10
    tau: float = 0.6
    reduction: str = "mean"
    margin_key: str = "sample"
    epochs: int = 200
    iterations_per_epoch: int = 250
    snapshot_interval: int = 5
    robust_interval: int = 5
    robust_eps: float | None = None
    robust_steps: int = 10
    seed: int = 0
    start_from: str | None = None

    def __post_init__(self) -> None:
        """Refuse what cannot work, naming the key."""
        choices = {
            "preset": tuple(PRESETS),
            "norm": ("L2", "Linf"),
            "start": ("random", "gradient"),
            "reduction": ("mean", "max", "min"),
            "margin_key": ("sample", "case"),
        }
        for key, allowed in choices.items():
            if getattr(self, key) not in allowed:
                msg = f'"ima": {key} must be one of {list(allowed)}, got {getattr(self, key)!r}'
                raise ValueError(msg)
        for key, values in _RANGES.items():
            value = getattr(self, key)
            if not values.holds(value) and not (key == "robust_eps" and value is None):
                msg = f'"ima": {key} must be {values}, got {value!r}'
                raise ValueError(msg)
        if self.delta > self.eps_max:
            msg = f'"ima": delta ({self.delta}) must not exceed eps_max ({self.eps_max})'
            raise ValueError(msg)
        if self.start_from is not None and not isinstance(self.start_from, str):
            msg = f'"ima": start_from must be a folder name, a path or null, got {self.start_from!r}'
            raise ValueError(msg)

    def describe(self) -> str:
        """One line per setting, for logs."""
        return "\n".join(f"  {key}: {value}" for key, value in asdict(self).items())


_RANGES = {
    "eps_max": _Range(0),
    "delta": _Range(0),
    "reference_elements": _Range(1, closed=True, whole=True),
    "beta": _Range(0, 1, closed=True),
    "pgd_steps": _Range(1, closed=True, whole=True),
    "alpha": _Range(0),
    "bisection_tolerance": _Range(0, 1),
    "bisection_steps": _Range(0, closed=True, whole=True),
    "tau": _Range(0, 1),
    "epochs": _Range(1, closed=True, whole=True),
    "iterations_per_epoch": _Range(1, closed=True, whole=True),
    "snapshot_interval": _Range(1, closed=True, whole=True),
    "robust_interval": _Range(0, closed=True, whole=True),
    "robust_eps": _Range(0),
    "robust_steps": _Range(1, closed=True, whole=True),
    "seed": _Range(0, 2**32 - 1, closed=True, whole=True),
}


def resolve_settings(plans: Mapping[str, Any]) -> Settings:
    """Return the settings of a training.

    Later sources win, key by key: the defaults, the preset, the packaged plan of the task that the data set
    belongs to, the key "ima" of the plans JSON.

    Args:
        plans: the plans JSON.

    Raises:
        ValueError: a key is unknown or a value impossible, or margins are missing because the task's are quoted in
            another norm; the message names the key.
    """
    given = plans.get("ima", {})
    if not isinstance(given, Mapping):
        msg = f'"ima" in the plans JSON must be an object of settings, got {given!r}'
        raise ValueError(msg)
    validate_keys(given)
    task = find_task(plans["dataset_name"])
    chosen = {**(task.ima if task else {}), **given}
    if task and chosen["norm"] != task.ima["norm"]:
        # prepared data sets carry the task's numbers in their plans
        if inherited := [key for key in ("eps_max", "delta") if chosen[key] == task.ima[key]]:
            msg = (
                f'"ima": with the norm {chosen["norm"]} {task.name} needs {" and ".join(inherited)} of its own, the '
                f"task's being quoted in {task.ima['norm']}; for example eps_max=0.1 delta=0.01"
            )
            raise ValueError(msg)
    preset = chosen.get("preset", Settings.preset)
    if preset not in PRESETS:
        msg = f'"ima": preset must be one of {list(PRESETS)}, got {preset!r}'
        raise ValueError(msg)
    return Settings(**{**PRESETS[preset], **chosen})


LOOKS = ("snapshot_interval", "robust_interval", "robust_eps", "robust_steps")


def refuse_other_settings(stored: Mapping[str, Any], settings: Settings, file: str) -> None:
    """Refuse to go on with a training under other settings than it was begun with.

    Free are settings that a checkpoint does not know, since an earlier release wrote it, and those that decide nothing
    about the weights: how often and how a training is looked at.

    Args:
        stored: settings in the checkpoint.
        settings: those in force.
        file: the checkpoint, for the message.

    Raises:
        ValueError: some differ; the message names them.
    """
    now = asdict(settings)
    differing = [
        f"{key} was {value!r}, now {now.get(key)!r}"
        for key, value in stored.items()
        if now.get(key) != value and key not in LOOKS
    ]
    if differing:
        msg = (
            f"{file} was trained with other settings ({'; '.join(differing)}). Put them back into the plans to go on, "
            "or give the new ones plans of their own: nnunet-ima-plan --name ANOTHER"
        )
        raise ValueError(msg)


def validate_keys(given: Mapping[str, Any]) -> None:
    """Raise ValueError if a key is not the name of a setting."""
    known = [field.name for field in fields(Settings)]
    for key in given:
        if key not in known:
            msg = f'"ima": unknown setting {key!r}; known are {", ".join(known)}'
            raise ValueError(msg)
