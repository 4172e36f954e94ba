"""The settings of a training run, read from the plans JSON: a schedule that all methods share, and the method's own."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from typing import Annotated, Any

from nnunet_ima.datasets.tasks import find_task
from nnunet_ima.methods import OF_ONE_LEVEL, Run, make_method, method_class, options
from nnunet_ima.methods.base import Noise, Share, Steps
from nnunet_ima.perturbation.budget import Budget
from nnunet_ima.perturbation.norms import NORMS
from nnunet_ima.ranges import Choice, Range, Text, check_values

# What the attack of each method spends, and IMA's β. The paper's numbers are the defaults of the methods themselves.
PRESETS: dict[str, dict[str, dict[str, Any]]] = {
    # Fewer, larger steps; IMA's first one rides on the gradient of the clean pass. Its β was tried on D4's
    # fold 0, compared on fold 1 and held on fold 2 (results/d4_2d_cpu_seeds.md).
    "default": {
        "ima": {"steps": 4, "alpha": 4.0, "start": "gradient", "bisection_tolerance": 0.1, "beta": 0.7},
        **{method: {"steps": 7} for method in ("adv", "trades", "fat", "gairat", "te", "mma")},
        "ddn": {"steps": 10, "gamma": 0.2},
    },
    "paper": {},
}
FORMER = {"eps_max": "eps", "pgd_steps": "steps"}
"""Names that release 0.1 gave to settings of IMA → names."""
UNKNOWN_TASK = {"eps": 0.1, "delta": 0.005}
"""Margins of a data set that no task is known for: RMS noise in σ."""

Whole = Annotated[int, Range(1, closed=True, whole=True)]


@dataclass(frozen=True)
class Settings:
    """Settings of a training; the keys "schedule" and that of the method in the plans JSON hold any subset of them.

    Noise (`robust_eps`, and all of the methods) is in the paper's unit: the norm on a network input of
    `reference_elements` elements, in standard deviations of the normalised image. With the default of one reference
    element the unit of L2 is RMS noise per voxel. For the L∞ norm it is the largest change of a voxel.

    Attributes:
        method: name in `METHODS`.
        options: the method's own settings; see `nnunet_ima.methods`.
        preset: "default" (few, better steps; a heavier β) or "paper"; fills settings of the method that are not given.
        norm: of all noise, name in `NORMS`.
        reference_elements: N_ref, the number of elements at which an L2 norm is quoted.
        tau: Dice at which the model counts as right on a patch.
        reduction: how the Dice of the classes present is reduced: "mean", "max" (the reference) or "min".
        epochs: number of epochs.
        iterations_per_epoch: optimiser steps per epoch.
        average: the averaged weights, which the training ends with, look back on this share of it; 0: no average.
        snapshot_interval: epochs between two snapshots; a resumable checkpoint is written as often.
        robust_interval: epochs between two measurements of the robust validation Dice; 0 switches it off.
        robust_eps: noise of that measurement; by default the method's, or half of its largest margin.
        robust_steps: PGD steps of that measurement.
        seed: seeds weights, data order, augmentation and attack.
        start_from: a finished training of the same data set to begin from: a results folder name such as
            "nnUNetTrainer__nnUNetPlans__2d", a path to such a folder or to a checkpoint file; None: from scratch.
    """

    method: str = "ima"
    options: dict[str, Any] = field(default_factory=dict)
    preset: Annotated[str, Choice(tuple(PRESETS))] = "default"
    norm: Annotated[str, Choice(NORMS)] = "L2"
    reference_elements: Whole = 1
    tau: Annotated[float, Range(0, 1)] = 0.6
    reduction: Annotated[str, Choice(("mean", "max", "min"))] = "mean"
    epochs: Whole = 200
    iterations_per_epoch: Whole = 250
    average: Share = 0.1
    snapshot_interval: Whole = 5
    robust_interval: Annotated[int, Range(0, closed=True, whole=True)] = 5
    robust_eps: Noise = 0.05
    robust_steps: Steps = 10
    seed: Annotated[int, Range(0, 2**32 - 1, closed=True, whole=True)] = 0
    start_from: Annotated[str | None, Text("a folder name, a path or null")] = None

    def describe(self) -> str:
        """One line per setting, for logs."""
        stored = self.as_dict()
        own = {f"{self.method}.{key}": value for key, value in stored.pop("options").items()}
        return "\n".join(f"  {key}: {value}" for key, value in (stored | own).items())

    def as_dict(self) -> dict[str, Any]:
        """Return the settings as JSON values."""
        stored: dict[str, Any] = json.loads(json.dumps(asdict(self)))
        return stored


SCHEDULE = tuple(entry.name for entry in fields(Settings) if entry.name not in ("method", "options"))
"""Names of the settings that all methods share."""
LOOKS = ("snapshot_interval", "robust_interval", "robust_eps", "robust_steps")
"""Those that decide nothing about the weights."""


def resolve_settings(plans: Mapping[str, Any], method: str = "ima") -> Settings:
    """Return the settings of a training.

    Later sources win, key by key: the defaults, the preset, the packaged plan of the task that the data set belongs to,
    the plans JSON. There "schedule" holds what all methods share and, say, "adv" what is that method's own; "ima" may
    hold both, as in release 0.1; its schedule is that of other methods, too, where "schedule" says nothing else.

    Args:
        plans: the plans JSON.
        method: name in `METHODS`.

    Raises:
        ValueError: a key is unknown or a value impossible, or margins are missing because the task's are quoted in
            another norm; the message names the key.
    """
    task = find_task(plans["dataset_name"])
    former, shared, own = (_objects(plans, key) for key in ("ima", "schedule", method))
    former = {FORMER.get(key, key): value for key, value in former.items()}
    _refuse_unknown("schedule", shared, SCHEDULE)
    _refuse_unknown("ima", former, (*SCHEDULE, *options("ima")))
    packaged = {**task.schedule, **task.ima} if task else {}
    known = packaged | (shared | former if method == "ima" else former | shared)
    schedule = {key: value for key, value in known.items() if key in SCHEDULE}
    if schedule.get("robust_eps", 0) is None:
        del schedule["robust_eps"]
    _check("schedule", schedule)
    margins = {key: known.get(key, UNKNOWN_TASK[key]) for key in UNKNOWN_TASK}
    _check("ima", margins, method_class("ima"))
    chosen = dict(PRESETS[schedule.get("preset", Settings.preset)].get(method, {}))
    if method == "ima":
        given = {key: value for key, value in former.items() if key not in SCHEDULE}
        chosen |= margins | given
        inherited = [key for key in UNKNOWN_TASK if key in packaged and chosen[key] == packaged[key]]
    else:
        _refuse_unknown(method, own, tuple(options(method)))
        chosen |= _usual_noise(method, margins["eps"]) | own
        if method == "ddn" and "first" not in own and isinstance(own.get("eps"), int | float):
            chosen["first"] = own["eps"] / 8
        inherited = ["eps"] if "eps" in chosen and "eps" not in own and margins["eps"] == packaged.get("eps") else []
    norm = schedule.get("norm", Settings.norm)
    if task and norm != packaged["norm"] and inherited:
        # prepared data sets carry the task's numbers in their plans
        example = " ".join(f"{key}={UNKNOWN_TASK[key]}" for key in inherited)
        msg = (
            f'"{method}": with the norm {norm} {task.name} needs {" and ".join(inherited)} of its own, the task\'s '
            f"being quoted in {packaged['norm']}; for example {example}"
        )
        raise ValueError(msg)
    given_options = {key: chosen.get(key, default) for key, default in options(method).items()}
    settings = Settings(method=method, options=given_options, **schedule)
    _try_out(settings)
    if "robust_eps" in schedule:
        return settings
    eps = given_options.get("eps", margins["eps"])
    return replace(settings, robust_eps=eps if method in OF_ONE_LEVEL else eps / 2)


def _usual_noise(method: str, largest: float) -> dict[str, float]:
    """Noise of a method where nobody has chosen any, given IMA's largest margin.

    Methods with margins go as far as IMA; those of one level take half of it.
    """
    if method == "plain":
        return {}
    if method == "ddn":
        return {"eps": largest, "first": largest / 8}
    return {"eps": largest / 2 if method in OF_ONE_LEVEL else largest}


def _try_out(settings: Settings) -> None:
    """Let the method refuse impossible options before any work is done."""
    run = Run((), settings.epochs, Budget(settings.norm, 1, settings.reference_elements), augmented=True)
    try:
        make_method(settings.method, run, settings.options)
    except ValueError as error:
        msg = f'"{settings.method}": {error}'
        raise ValueError(msg) from error


def _objects(plans: Mapping[str, Any], key: str) -> dict[str, Any]:
    given = plans.get(key, {})
    if not isinstance(given, Mapping):
        msg = f'"{key}" in the plans JSON must be an object of settings, got {given!r}'
        raise ValueError(msg)
    return dict(given)


def _check(where: str, values: Mapping[str, Any], kind: type = Settings) -> None:
    try:
        check_values(kind, values)
    except ValueError as error:
        msg = f'"{where}": {error}'
        raise ValueError(msg) from error


def _refuse_unknown(where: str, given: Mapping[str, Any], known: tuple[str, ...]) -> None:
    for key in given:
        if key not in known:
            told = (
                f"known are {', '.join(known)}"
                if known
                else f'it has none; those of "schedule" are {", ".join(SCHEDULE)}'
            )
            msg = f'"{where}": unknown setting {key!r}; {told}'
            raise ValueError(msg)


def refuse_other_settings(stored: Mapping[str, Any], settings: Settings, file: str) -> None:
    """Refuse to go on with a training under other settings than it was begun with.

    Free are settings that a checkpoint does not know, since an earlier release wrote it, and those that decide nothing
    about the weights: how often and how a training is looked at.

    Args:
        stored: settings in the checkpoint, as `Settings.as_dict` gives them, or those of IMA in release 0.1.
        settings: those in force.
        file: the checkpoint, for the message.

    Raises:
        ValueError: some differ; the message names them.
    """
    now = settings.as_dict()
    own = now.pop("options")
    known = []
    for key, value in stored.items():
        if key not in (*LOOKS, "options"):
            name = FORMER.get(key, key)
            known.append((name, value, now if name in now else own))  # release 0.1 had all in one
    # apart from the others, since a method's option may have the name of one of them: FAT's tau
    known += [(key, value, own) for key, value in stored.get("options", {}).items()]
    differing = [f"{key} was {value!r}, now {at.get(key)!r}" for key, value, at in known if at.get(key) != value]
    if differing:
        msg = (
            f"{file} was trained with other settings ({'; '.join(differing)}). Put them back into the plans to go on, "
            "or give the new ones plans of their own: nnunet-ima-plan --name ANOTHER"
        )
        raise ValueError(msg)


def change_settings(plans: Mapping[str, Any], method: str, changes: Mapping[str, Any]) -> dict[str, Any]:
    """Return plans with other settings: what all methods share goes under "schedule", the rest under the method.

    A name that both have, such as FAT's tau, is the method's; "schedule.tau" names the other one.

    Args:
        plans: the plans JSON.
        method: name in `METHODS`.
        changes: values by name; they are checked when the plans are used, see `resolve_settings`.
    """
    own, shared = _objects(plans, method), _objects(plans, "schedule")
    for key, value in changes.items():
        name = FORMER.get(key, key) if method == "ima" else key
        plain = key.removeprefix("schedule.")
        if plain in SCHEDULE and (plain != key or name not in options(method)):
            shared[plain] = value
        else:
            own[name] = value
    for former, name in FORMER.items():
        if name in own:
            own.pop(former, None)
    if method == "ima":
        own = {key: value for key, value in own.items() if key not in shared}
    return dict(plans) | ({method: own} if own else {}) | ({"schedule": shared} if shared else {})
