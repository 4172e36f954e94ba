"""Trainings of a comparison: one after the other, or side by side in workers."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tqdm import tqdm

from nnunet_ima.cluster.device import worker_device
from nnunet_ima.cluster.share import Task, check_wanted, report, share
from nnunet_ima.cluster.workers import dask_distributed
from nnunet_ima.commands._training import EPOCH, follow
from nnunet_ima.datasets.folders import VARIABLES


@dataclass(frozen=True)
class Training:
    """A training that nnUNetv2_train makes.

    Attributes:
        label: what it is called.
        fold: folder that it trains into.
        words: arguments of the command.
        epochs: that it takes.
        log: file for its output.
    """

    label: str
    fold: Path
    words: tuple[str, ...]
    epochs: int
    log: Path

    @property
    def done(self) -> bool:
        """Whether it has ended."""
        return (self.fold / "checkpoint_final.pth").is_file()

    def arguments(self) -> list[str]:
        """Arguments of the command, which goes on where it was stopped."""
        return [*self.words, *(["--c"] if (self.fold / "checkpoint_latest.pth").is_file() else [])]


def train_apart(client: Any, trainings: Sequence[Training], device: str) -> None:
    """Let workers train, one training each at a time.

    Args:
        client: of Dask.
        trainings: those that have ended are left out.
        device: "cpu" or "cuda", of which each worker takes one.

    Raises:
        ValueError: a training failed; the others have ended.
    """
    left = [training for training in trainings if not training.done]
    folders = {name: os.environ[name] for name in VARIABLES}
    tasks = [Task((training, device, folders), training.epochs) for training in left]
    failed = []
    epochs, often = sum(training.epochs for training in left), 0.2 if sys.stderr.isatty() else 30.0
    title = f"Training {', '.join(training.label for training in left)}"
    with tqdm(total=epochs, desc=title, unit="epoch", mininterval=often, disable=not left) as bar:
        for done in share(client, train_here, tasks, lambda _: bar.update()):
            if done.error is not None:
                failed.append(f"{done.task.arguments[0].label}: {done.error}")
    if failed:
        raise ValueError("; ".join(failed))


def train_here(training: Training, device: str, folders: dict[str, str]) -> None:
    """Train in a worker, on its device or on one CPU thread; the training ends with the worker.

    Args:
        training: which one.
        device: "cpu" or "cuda".
        folders: nnU-Net's, by their variables.
    """
    if training.done:  # by a worker that died just after that
        return
    environment = {**os.environ, **folders}
    kind, *_ = device.split(":")
    if kind == "cuda":
        environment["CUDA_VISIBLE_DEVICES"] = _visible(device, environment.get("CUDA_VISIBLE_DEVICES"))

    def told(line: str) -> None:
        check_wanted()
        if EPOCH in line:
            report(EPOCH)

    words = [*training.arguments(), "-device", kind]
    command = [sys.executable, "-m", "nnunet_ima.cluster.held", "nnUNetv2_train", *words]
    follow(command, training.log, told, env=environment, start_new_session=True)


@contextmanager
def only_gpu(number: str) -> Iterator[None]:
    """Let processes that are started see this GPU alone, counted as this process counts them; "": all."""
    if not number:
        yield
        return
    from nnunet_ima.training.scheduled import environment  # takes seconds

    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    with environment(CUDA_VISIBLE_DEVICES=visible.split(",")[int(number)] if visible else number):
        yield


def _visible(device: str, visible: str | None) -> str:
    """What CUDA_VISIBLE_DEVICES has to be, so that this worker's device is the only one."""
    import torch

    seen = visible.split(",") if visible else [str(number) for number in range(torch.cuda.device_count())]
    _, _, number = worker_device(device, dask_distributed().get_worker().name, len(seen)).partition(":")
    return seen[int(number or 0)]
