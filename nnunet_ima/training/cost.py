"""What a method's training step takes, measured on a few batches: network passes and seconds."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Mapping
from contextlib import redirect_stdout
from io import StringIO
from time import perf_counter
from typing import Any, NamedTuple

import torch

from nnunet_ima._methods import METHODS
from nnunet_ima.training import trainers
from nnunet_ima.training.robust import RobustTrainer


class Cost(NamedTuple):
    """Of one training step.

    Attributes:
        passes: forward and backward passes per sample, learning and attack together.
        seconds: median of the steps.
    """

    passes: float
    seconds: float


def measure_cost(
    plans: Mapping[str, Any], configuration: str, fold: int, method: str, dataset_json: Mapping[str, Any], device: str
) -> Cost:
    """Make a few steps of a training that is thrown away, from where the plans start it.

    Plain training needs no trial: a pass forward and one back.

    Args:
        plans: the plans JSON; a `start_from` in them must be a path.
        configuration: to train.
        fold: whose training cases are used.
        method: name in `METHODS`.
        dataset_json: of the data set.
        device: where to compute.
    """
    if method == "plain":
        return Cost(2.0, 0.0)
    former = os.environ.get("nnUNet_results")
    with tempfile.TemporaryDirectory() as folder, redirect_stdout(StringIO()):
        os.environ["nnUNet_results"] = folder  # nobody needs what the trainer writes
        try:
            kind = getattr(trainers, METHODS[method][1])
            trial: RobustTrainer = kind(
                {**plans, "continue_training": False}, configuration, fold, dict(dataset_json), torch.device(device)
            )
            trial.on_train_start()
            trial.on_train_epoch_start()
            seconds = []
            for third in range(3):
                # what some methods spend depends on the epoch: early, in the middle, late
                trial.method.begin_epoch(int((third + 0.5) / 3 * trial.num_epochs))
                batch = next(trial.dataloader_train)  # type: ignore[call-overload]
                begin = perf_counter()
                trial.train_step(batch)
                seconds.append(perf_counter() - begin)
        finally:
            if former is None:
                del os.environ["nnUNet_results"]
            else:
                os.environ["nnUNet_results"] = former
    return Cost((trial.tally.forward + trial.tally.backward) / trial.tally.samples, sorted(seconds)[1])
