"""Trainings of a comparison on phantoms, in this process and as short as can be."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch

SETTINGS = ["iterations_per_epoch=1", "snapshot_interval=1", "robust_interval=0", "tau=0.05", "robust_steps=1"]


def train_here(arguments: list[str], log: Path, title: str, epochs: int) -> None:
    """In this process, which saves seconds, instead of nnU-Net's command."""
    from nnunet_ima._register import load_trainer
    from nnunet_ima.datasets.folders import nnunet_folder

    dataset, configuration, fold, _, trainer, _, plans, *_ = arguments
    folder = next(nnunet_folder("nnUNet_preprocessed").glob(f"Dataset{int(dataset):03d}_*"))
    content = json.loads((folder / f"{plans}.json").read_text()) | {"continue_training": "--c" in arguments}
    if trainer == "nnUNetTrainerPlain":
        content["schedule"] = {"epochs": 1, "iterations_per_epoch": 1}
    dataset_json = json.loads((folder / "dataset.json").read_text())
    made = load_trainer(trainer)(content, configuration, int(fold), dataset_json, torch.device("cpu"))
    made.run_training()
    log.write_text(title)


def arguments(phantom: Any, output: Path, *more: str) -> list[str]:
    return [
        *("-d", str(phantom.dataset_id), "-c", "2d_cpu", "--output", str(output), "--device", "cpu"),
        *("--eps", "0", "0.1", "--steps", "2", "--every", "4", *more, "--set", *SETTINGS),
    ]
