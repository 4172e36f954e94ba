"""What an audit's numbers depend on, and what else took part: for the manifest beside the results."""

from __future__ import annotations

import platform
import sys
from collections.abc import Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

import nnunet_ima
from nnunet_ima.attacks.presets import VERSION as ATTACKS
from nnunet_ima.evidence.store import sha256
from nnunet_ima.inference.cases import Case
from nnunet_ima.inference.pipeline import Pipeline


def question(pipelines: Mapping[str, Pipeline], cases: Sequence[Case], settings: Mapping[str, Any]) -> dict[str, Any]:
    """What decides the numbers: models and cases by the hashes of their files, pipelines, settings, attacks."""
    return {
        "attacks": ATTACKS,
        "settings": dict(settings),
        "models": {
            name: {
                "checkpoints": {fold: sha256([file]) for fold, file in _checkpoints(pipeline).items()},
                "plans": sha256([pipeline.model.folder / "plans.json", pipeline.model.folder / "dataset.json"]),
                "trainer": pipeline.model.trainer,
                "configuration": pipeline.model.configuration_name,
                "step_size": pipeline.step_size,
                "mirroring": list(pipeline.model.mirror_axes or ()) if pipeline.mirroring else [],
            }
            for name, pipeline in pipelines.items()
        },
        "cases": {case.name: sha256([*case.images, case.label]) for case in cases},
    }


def provenance(pipelines: Mapping[str, Pipeline], private: bool = False) -> dict[str, Any]:
    """What may explain the numbers besides: code, libraries, machine.

    Args:
        pipelines: inference of each model by its name.
        private: of the command keep the names of its options alone, as their values may tell the patient.
    """
    device = next(iter(pipelines.values())).model.device
    options = [word.split("=")[0] for word in sys.argv[1:] if word.startswith("-")]
    command = [Path(sys.argv[0]).name, *options] if private else sys.argv
    return environment(device) | {
        "command": command,
        "precision": "float16 passes, float32 noise" if device.type == "cuda" else "float32",
        "folders": {name: str(pipeline.model.folder.resolve()) for name, pipeline in pipelines.items()},
    }


def environment(device: torch.device) -> dict[str, Any]:
    """Code, libraries, machine and command."""
    return {
        "code": sha256(sorted(Path(nnunet_ima.__file__).parent.rglob("*.py"))),
        "versions": {"python": platform.python_version()}
        | {name: _version(name) for name in ("nnunet-ima", "nnunetv2", "torch", "numpy", "SimpleITK")},
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else platform.machine(),
        "threads": torch.get_num_threads(),
        "command": sys.argv,
    }


def _checkpoints(pipeline: Pipeline) -> dict[str, Path]:
    return dict(zip(pipeline.model.folds, pipeline.model.checkpoints, strict=True))


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed as a package"
