"""What an audit looks at, by the options of its command: models, cases, settings."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from nnunet_ima.commands._run import usable_device
from nnunet_ima.datasets.folders import find_dataset, nnunet_folder
from nnunet_ima.datasets.tasks import load_task, task_names
from nnunet_ima.files import check_name

if TYPE_CHECKING:
    from nnunet_ima.commands.attack import Attack
    from nnunet_ima.inference.cases import Case
    from nnunet_ima.inference.dicom_cases import PendingCase
    from nnunet_ima.inference.model import TrainedModel
    from nnunet_ima.segmentation.settings import Settings, Shift, WorstShiftSettings

SCANS = (".nii.gz", ".nii", ".nrrd", ".mha", ".mhd")
C = TypeVar("C", bound="Case | PendingCase")


def open_models(command: Attack) -> dict[str, TrainedModel]:
    """Open each model, under a short name of its own."""
    from nnunet_ima.inference.model import open_model

    device = usable_device(command.device)
    folders = command.model or (_task_folder(command),)
    names = [*command.name] or [check_name(folder.resolve().name, f"--model {folder}") for folder in folders]
    if len(set(names)) < len(names):
        names = [f"{chr(65 + number)}_{name}" for number, name in enumerate(names)]
    return {
        name: open_model(folder, command.fold, command.checkpoint, device, command.trust_checkpoint)
        for name, folder in zip(names, folders, strict=True)
    }


def _task_folder(command: Attack) -> Path:
    task = str(command.task)
    if task in task_names():
        task = str(load_task(task).dataset_id)
    elif not task.isdecimal() and not task.startswith("Dataset"):
        msg = f"unknown task {task!r}; known are {', '.join(task_names())}, and numbers and names of data sets"
        raise ValueError(msg)
    results = nnunet_folder("nnUNet_results") / find_dataset(task)
    folder = results / f"{command.trainer}__{command.plans}__{command.configuration}"
    if not folder.is_dir():
        trained = ", ".join(sorted(path.name for path in results.glob("*__*__*"))) or "none"
        msg = f"{folder} does not exist (-tr, -p, -c choose another model); {results} holds {trained}"
        raise FileNotFoundError(msg)
    return folder


def find_cases(command: Attack, models: dict[str, TrainedModel], stack: ExitStack) -> list[Case]:
    """Find the cases; the stack removes in the end what was written of them for the length of the audit."""
    from nnunet_ima.datasets.dicom.folders import holds_dicom
    from nnunet_ima.inference.cases import dataset_cases, folder_cases
    from nnunet_ima.inference.dicom_cases import dicom_cases, write_cases

    first = next(iter(models.values()))
    if command.images is not None and command.labels is not None:
        ending = first.dataset_json["file_ending"]
        if holds_dicom(command.images, ending):
            pending = _chosen(command, dicom_cases(command.images, command.labels, first))
            folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="nnunet-ima-"))
            return write_cases(pending, Path(folder), first)
        cases = folder_cases(command.images, command.labels, first.channels, ending)
    else:
        found = [
            dataset_cases(
                model.plans.dataset_name,
                model.folds,
                names=command.cases or None,
                allow_training_cases=command.allow_training_cases,
            )
            for model in models.values()
        ]
        common = set.intersection(*({case.name for case in entry} for entry in found))
        cases = [case for case in found[0] if case.name in common]
        if not cases:
            msg = "the models have no validation case in common; audit them on the same fold"
            raise ValueError(msg)
    return _chosen(command, cases)


def _chosen(command: Attack, cases: Sequence[C]) -> list[C]:
    """The cases that --cases and --limit leave."""
    if unknown := sorted(set(command.cases) - {case.name for case in cases}):
        msg = f"{command.images} holds no case {', '.join(unknown)}"
        raise ValueError(msg)
    chosen = [case for case in cases if not command.cases or case.name in command.cases]
    if command.limit is not None and command.limit < len(chosen):
        chosen = [chosen[number * len(chosen) // command.limit] for number in range(command.limit)]
    return chosen


def settings_of(command: Attack, models: dict[str, TrainedModel]) -> Settings:
    """What is to be measured."""
    from nnunet_ima.segmentation.budgets import default_levels, reference_elements
    from nnunet_ima.segmentation.settings import Settings
    from nnunet_ima.segmentation.smoothing import Smoothing

    plans = next(iter(models.values())).plans.plans
    references = {reference_elements(model.plans.plans) for model in models.values()}
    reference = references.pop() if len(references) == 1 else None
    unit = command.eps_unit or ("rms" if reference is None else "paper")
    eps = command.eps if command.eps is not None else default_levels(plans, command.norm, unit)
    if eps is None:
        msg = f"name the noise levels with --eps: there are no default levels in the unit {unit} for {command.norm}"
        raise ValueError(msg)
    if unit == "paper" and reference is None:
        msg = "the paper's unit of ε needs a reference size, the same in all models' plans; use --eps-unit rms"
        raise ValueError(msg)
    return Settings(
        attacks=tuple(dict.fromkeys(command.attack)),
        eps=tuple(sorted({value for value in eps if value > 0})),
        unit=unit,
        norm=command.norm,
        reference_elements=reference,
        steps=command.steps,
        seed=command.seed,
        threshold=command.dice_threshold,
        margins=not command.no_margins,
        tolerance=command.tolerance,
        save_adversarial=command.save_adversarial,
        shift=_shift(command, list(models.values())),
        worst_shift=_worst_shift(command, list(models.values())),
        vafa=tuple(sorted(set(command.vafa))),
        smoothings=tuple(Smoothing(sigma, command.samples) for sigma in sorted(set(command.certify))),
    )


def _shift(command: Attack, models: Sequence[TrainedModel]) -> Shift | None:
    """The disturbances asked for; what would keep them from being looked at is told before hours of work."""
    if command.shift is None:
        return None
    from nnunet_ima.segmentation.input_check import find_likeness
    from nnunet_ima.segmentation.settings import Shift
    from nnunet_ima.shift import DISTURBANCES, find_disturbance
    from nnunet_ima.shift.through_torchio import torchio

    for model in models:
        _check_scans("--shift", model)
    modality = _modality(command.shift)
    fitting = [it.name for it in DISTURBANCES.values() if {modality, "any"} & set(it.modalities)]
    for name in command.disturbances:
        if find_disturbance(name).name not in fitting:
            msg = f"--disturbances {name} does not happen to scans of --shift {command.shift}; {', '.join(fitting)} do"
            raise ValueError(msg)
    torchio()  # missing, it is to be missed before hours of work
    for model in models:
        find_likeness(model)
    chosen = tuple(dict.fromkeys(command.disturbances)) or tuple(fitting)
    return Shift(modality, chosen, tuple(sorted(set(command.severities))))


def _worst_shift(command: Attack, models: Sequence[TrainedModel]) -> WorstShiftSettings | None:
    """The worst change asked for."""
    if command.worst_shift is None:
        return None
    from nnunet_ima.inference.preprocessing import check_known
    from nnunet_ima.segmentation.settings import WorstShiftSettings
    from nnunet_ima.shift.searched import SEARCHED

    for model in models:
        _check_scans("--worst-shift", model)
        check_known(model)
    modality = _modality(command.worst_shift)
    fitting = [it.name for it in SEARCHED.values() if {modality, "any"} & set(it.modalities)]
    for name in command.worst_changes:
        if name not in fitting:
            msg = f"--worst-changes {name} cannot be searched in {command.worst_shift} scans; {', '.join(fitting)} can"
            raise ValueError(msg)
    return WorstShiftSettings(modality, command.worst_severity, command.worst_steps, command.worst_changes)


def _check_scans(option: str, model: TrainedModel) -> None:
    ending = model.dataset_json["file_ending"]
    if ending not in SCANS:
        msg = f"{option} disturbs scans ({', '.join(SCANS)}), and the model's images are {ending} files"
        raise ValueError(msg)


def _modality(name: str) -> str:
    """A modality as scans know it."""
    return name if name == "any" else name.upper()
