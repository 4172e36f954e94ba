"""A training of nnU-Net in this process, begun, gone on with, or found finished; for scripts that measure on GPUs."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import with_trainers  # noqa: F401 - trainers are found, here and in worker processes

# isort: split
import torch
from nnunetv2.run.run_training import get_trainer_from_args
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer
from torch.backends import cudnn


@contextmanager
def as_nnunet_trains(device: str) -> Iterator[None]:
    """Let cuDNN look for the fastest algorithm; the attacks of audits have too many batch sizes for that."""
    cudnn.benchmark = device == "cuda"
    try:
        yield
    finally:
        cudnn.benchmark = False


def train_here(
    dataset: str, configuration: str, fold: int, trainer: str, plans: str, folder: Path, device: str
) -> nnUNetTrainer | None:
    """Train, or go on; nnU-Net's own validation is left out.

    Args:
        dataset: name of its folder.
        configuration: of the plans.
        fold: to train.
        trainer: name of its class.
        plans: name of the plans.
        folder: of the model's results.
        device: where to compute.

    Returns:
        The trainer after its training; None if that was finished already.
    """
    latest = folder / f"fold_{fold}" / "checkpoint_latest.pth"
    if latest.with_name("checkpoint_final.pth").is_file():
        return None
    made = get_trainer_from_args(dataset, configuration, fold, trainer, plans, latest.is_file(), torch.device(device))
    if latest.is_file():
        made.load_checkpoint(str(latest))
    with as_nnunet_trains(device):
        made.run_training()
    return made
