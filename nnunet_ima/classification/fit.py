"""Training a classifier: seeded, resumable, with a log, curves, snapshots and an early view of its robustness."""

from __future__ import annotations

import contextlib
import json
import math
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from statistics import fmean, median, pstdev
from time import perf_counter
from typing import Any

import torch
from torch import Tensor
from torch.optim import AdamW
from torch.optim.lr_scheduler import LRScheduler, OneCycleLR
from tqdm import tqdm

from nnunet_ima.attacks.losses import cross_entropy
from nnunet_ima.attacks.pgd import pgd
from nnunet_ima.attacks.problem import Problem
from nnunet_ima.classification.claim import check_claim, claim
from nnunet_ima.classification.data import class_weights
from nnunet_ima.classification.learner import ClassifierLearner, MixedPrecision, evaluating
from nnunet_ima.classification.networks import (
    load_checked,
    load_classifier,
    new_network,
    save_atomically,
    save_classifier,
)
from nnunet_ima.classification.settings import Settings
from nnunet_ima.classification.training_data import TrainingData, shuffled_batches
from nnunet_ima.files import csv_text, write_atomically
from nnunet_ima.methods import Method
from nnunet_ima.pace import Pace
from nnunet_ima.perturbation.half_precision import HALF, attacked_pass
from nnunet_ima.perturbation.norms import NORMS
from nnunet_ima.report.training_curves import plot_curves, plot_margins
from nnunet_ima.tasks.classification import Classification

MODEL, LATEST, LOG = "model.pt", "checkpoint_latest.pt", "log.csv"


def fit(
    data: TrainingData,
    settings: Settings,
    folder: Path,
    device: str | torch.device = "cpu",
    start: Path | None = None,
) -> Path:
    """Train a classifier, or go on with its training, or find it trained.

    The folder holds training.json, log.csv, progress.png, margins.png (of methods with margins), snapshots and, in the
    end, model.pt. Everything random of an epoch comes from the seed and the epoch's number, so that a training that was
    stopped ends in the same weights (on one machine, with one thread).

    Args:
        data: what to train on.
        settings: how.
        folder: of this training alone.
        device: where to compute.
        start: classifier whose weights are the first ones; it must be of the same network and classes.

    Returns:
        The file of the classifier.

    Raises:
        ValueError: the folder holds another training, a setting is impossible, or the loss is not finite.
    """
    training = _open(data, settings, folder, device)
    if training is not None and start is not None and training.epoch == 0:
        training.begin_with(start)
    claim(folder, settings, data, start)
    if training is None:
        return folder / MODEL
    epochs = range(training.epoch, settings.epochs)
    bar = tqdm(
        epochs, initial=training.epoch, total=settings.epochs, desc=settings.method, unit="epoch", file=sys.stderr
    )
    for epoch in bar:
        bar.set_postfix_str(training.run_epoch(epoch))
    return training.finish()


def check(data: TrainingData, settings: Settings, folder: Path, device: str | torch.device = "cpu") -> None:
    """Find out whether `fit` can begin or go on there; nothing is written.

    Raises:
        ValueError: the folder holds another training or a damaged checkpoint, or the network cannot be used.
    """
    _open(data, settings, folder, device)


def suggested_eps(margins: Sequence[float]) -> float:
    """The noise level that margins suggest for plain adversarial training: their median (supplement, section C.3)."""
    return median(margins)


def _open(data: TrainingData, settings: Settings, folder: Path, device: str | torch.device) -> _Training | None:
    """Take up the training of a folder, or a new one; None if it is finished."""
    check_claim(folder, settings, data)
    if (folder / MODEL).is_file():
        return None
    if (folder / MODEL).exists():
        raise ValueError(f"{folder / MODEL} is no file; remove it to train again")
    training = _Training(data, settings, folder, torch.device(device))
    training.try_out()
    training.resume()
    return training


@dataclass
class _Training:
    """A training in progress."""

    data: TrainingData
    settings: Settings
    folder: Path
    device: torch.device
    epoch: int = 0
    log: list[dict[str, Any]] = field(default_factory=list)
    pace: Pace = field(default_factory=Pace)

    def __post_init__(self) -> None:
        settings, data = self.settings, self.data
        torch.manual_seed(settings.seed)
        network, self.description = new_network(settings, len(data.classes), data.channels)
        self.network = network.to(self.device)
        self.model = MixedPrecision(self.network)
        self.task = Classification(class_weights(data.y, len(data.classes)) if settings.balanced else None)
        self.method: Method = settings.make_method(data.ids, data.channels)
        trained = [weight for weight in self.network.parameters() if weight.requires_grad]
        self.optimizer = AdamW(trained, settings.learning_rate, weight_decay=settings.weight_decay)
        batches = math.ceil(len(data.ids) / settings.batch_size)
        self.schedule: LRScheduler | None = None
        if settings.schedule == "one-cycle":
            self.schedule = OneCycleLR(self.optimizer, settings.learning_rate, settings.epochs * batches)
        self.scaler = torch.GradScaler(self.device.type, enabled=self.device.type in HALF)
        chosen = torch.randperm(len(data.y_validation), generator=torch.Generator().manual_seed(settings.seed))
        self.watched = chosen[: settings.robust_images]

    def try_out(self) -> None:
        """Raise ValueError if the network cannot work on images of this size, before anything is written."""
        try:
            with torch.no_grad(), evaluating(self.model) as model:
                model(self.data.x[:1].to(self.device))
        except ValueError as error:
            msg = f"size={self.settings.size} does not suit the network: {error}"
            raise ValueError(msg) from error

    def begin_with(self, file: Path) -> None:
        """Take over the weights of a classifier."""
        former = load_classifier(file, self.device)
        if list(former.classes) != list(self.data.classes):
            msg = f"{file} tells {', '.join(former.classes)} apart, the images {', '.join(self.data.classes)}"
            raise ValueError(msg)
        try:
            self.network.load_state_dict(former.network.state_dict())
        except RuntimeError as error:
            msg = f"{file} holds another network than {self.settings.method} trains; train it with the same settings"
            raise ValueError(msg) from error

    def resume(self) -> None:
        """Take up what an earlier start has left."""
        file = self.folder / LATEST
        if not file.exists():
            return
        try:
            stored = load_checked(file, "nnunet_ima_training")
            self.network.load_state_dict(stored["weights"])
            self.optimizer.load_state_dict(stored["optimizer"])
            if stored["scaler"]:  # a training on a CPU has none
                self.scaler.load_state_dict(stored["scaler"])
            if self.schedule is not None:
                self.schedule.load_state_dict(stored["schedule"])
            self.method.load_state_dict(stored["method"])
            self.log, self.epoch = stored["log"], stored["epoch"]
        except Exception as error:  # a damaged file can raise anything
            reason = str(error) if isinstance(error, (ValueError, OSError)) else f"{file} is no complete checkpoint"
            raise ValueError(f"{reason}; remove it to train from the start") from error

    def run_epoch(self, epoch: int) -> str:
        """Train for an epoch, look at the validation images, write everything down; returns a line about it."""
        begin = perf_counter()
        torch.manual_seed(self.settings.seed * 1_000_003 + epoch)  # dropout
        generator = torch.Generator().manual_seed(self.settings.seed * 1_000_003 + epoch)
        self.method.begin_epoch(epoch)
        self.model.train()
        sums: dict[str, float] = {}
        for batch in shuffled_batches(len(self.data.ids), self.settings.batch_size, generator):
            for key, value in self._step(batch, generator).items():
                sums[key] = sums.get(key, 0.0) + value
        self.method.end_epoch()
        images = len(self.data.ids)
        row: dict[str, Any] = {
            "epoch": epoch + 1,
            "learning_rate": self.optimizer.param_groups[0]["lr"],
            **{key: value / images for key, value in sums.items()},
            **self._validate(epoch),
        }
        margins = self.method.margins()
        if margins is not None:
            values = list(margins.values())
            row |= {"margin_mean": fmean(values), "margin_sd": pstdev(values), "margin_max": max(values)}
        row["seconds"] = perf_counter() - begin
        self.log.append(row)
        self.epoch = epoch + 1
        self._store()
        return (
            f"loss {row['loss']:.3f}, validation {row['validation']:.3f} clean, "
            f"{row['validation_robust']:.3f} at ε = {self.settings.robust_eps:g}"
        )

    def finish(self) -> Path:
        """Write the classifier; the checkpoint to go on from is not needed any more."""
        save_classifier(
            self.folder / MODEL, self.network, self.description, self.data.classes, self.settings, self.epoch
        )
        with contextlib.suppress(FileNotFoundError):
            (self.folder / LATEST).unlink()
        return self.folder / MODEL

    def _step(self, batch: Tensor, generator: torch.Generator) -> dict[str, float]:
        """One optimiser step; returns sums over the batch."""
        x, y = (tensor[batch].to(self.device) for tensor in (self.data.x, self.data.y))
        names = [self.data.ids[i] for i in batch.tolist()]
        self.optimizer.zero_grad(set_to_none=True)
        learner = ClassifierLearner(
            self.model, x, y, names, self.task, generator, scaler=self.scaler, check=self._refuse_not_finite
        )
        loss, log = self.method.step(learner)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.method.learnt(self.network)
        if self.schedule is not None:
            self.schedule.step()
        return {"loss": loss.item() * len(batch), **log}

    def _refuse_not_finite(self, loss: Tensor) -> None:
        if not bool(loss.isfinite()):
            msg = (
                f"{self.settings.method}: the loss is {loss.item()} in epoch {self.epoch + 1}; "
                "lower learning_rate, or the method's noise"
            )
            raise ValueError(msg)

    def _validate(self, epoch: int) -> dict[str, float]:
        """Accuracy on validation images, clean on all of them and under PGD on some."""
        with evaluating(self.network) as network:
            model, found = partial(attacked_pass, network), []
            for x, y in zip(self.data.x_validation.split(256), self.data.y_validation.split(256), strict=True):
                with torch.no_grad():
                    found.append((model(x.to(self.device)).argmax(1).cpu() == y).float())
            x, y = (values[self.watched].to(self.device) for values in (self.data.x_validation, self.data.y_validation))
            problem = Problem(
                model,
                x,
                y,
                x.new_full((len(x),), self.settings.budget(self.data.channels).effective(self.settings.robust_eps)),
                NORMS[self.settings.norm],
                self.task.quality,
            )
            generator = torch.Generator().manual_seed(epoch)
            attacked = pgd(problem, cross_entropy, steps=self.settings.robust_steps, generator=generator)
        return {"validation": torch.cat(found).mean().item(), "validation_robust": attacked.quality.mean().item()}

    def _store(self) -> None:
        """Write log, margins, the checkpoint to go on from and, every few epochs, a snapshot; draw now and then."""
        write_atomically(self.folder / LOG, csv_text(self.log))
        margins = self.method.margins()
        if margins is not None:
            write_atomically(self.folder / "margins.json", json.dumps(margins, indent=0) + "\n")
        if self.pace.due(anyway=self.epoch in (1, self.settings.epochs)):
            self._draw(None if margins is None else list(margins.values()))
        if self._has_snapshot(self.epoch):
            self._snapshot()
        save_atomically(
            self.folder / LATEST,
            {
                "nnunet_ima_training": 1,
                "weights": self.network.state_dict(),
                "optimizer": self.optimizer.state_dict(),
                "scaler": self.scaler.state_dict(),
                "schedule": None if self.schedule is None else self.schedule.state_dict(),
                "method": self.method.state_dict(),
                "log": self.log,
                "epoch": self.epoch,
            },
        )

    def _draw(self, margins: Sequence[float] | None) -> None:
        """Draw the curves, and the histogram of the margins."""
        plot_curves(self.log, self.settings.method, self.settings.robust_eps, self.folder / "progress.png")
        if margins is not None:
            plot_margins(margins, self.settings.options["eps"], suggested_eps(margins), self.folder / "margins.png")

    def _snapshot(self) -> None:
        """Keep the network as it is now: after M epochs no margin exceeds M·Δ, so snapshots trace the trade-off."""
        file = self.folder / _snapshot_name(self.epoch)
        save_classifier(file, self.network, self.description, self.data.classes, self.settings, self.epoch)
        keys = ("epoch", "validation", "validation_robust", "margin_mean", "margin_max")
        entries = [
            {"file": _snapshot_name(row["epoch"]), **{key: row[key] for key in keys if key in row}}
            for row in self.log
            if self._has_snapshot(row["epoch"])
        ]
        write_atomically(self.folder / "snapshots.json", json.dumps(entries, indent=1) + "\n")

    def _has_snapshot(self, epoch: int) -> bool:
        return epoch % self.settings.snapshot_interval == 0 or epoch == self.settings.epochs


def _snapshot_name(epoch: int) -> str:
    return f"snapshot_{epoch:03d}.pt"
