"""What our trainers share: settings from the plans, their schedule, seeded data and a warm start."""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ClassVar

import torch
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer
from nnunetv2.utilities.default_n_proc_DA import get_allowed_n_proc_DA

from nnunet_ima.checkpoints import load_checkpoint
from nnunet_ima.files import atomic_file
from nnunet_ima.pace import Pace
from nnunet_ima.training.batches import SeededBatches, seed_all, stream
from nnunet_ima.training.settings import refuse_other_settings, resolve_settings
from nnunet_ima.training.snapshots import FORMER
from nnunet_ima.training.warm_start import load_weights, resolve_start

DECISIVE = ("epochs", "iterations_per_epoch", "seed", "start_from")
"""Settings that decide the weights of a training without a method."""


class ScheduledTrainer(nnUNetTrainer):
    """nnU-Net's training on the schedule of our settings, reproducible from their seed.

    Everything random is derived from (seed, rank, epoch or batch number), so that nothing random has to be
    stored for a resumed run to equal an uninterrupted one, bit by bit on one CPU thread. With several threads PyTorch
    adds in another order each time, and two runs drift apart from the last digit; so do those of different devices.

    Attributes:
        method_name: of the method whose settings these are.
        draws: whether this epoch draws the curves.
        stored: what the checkpoint that was loaded holds of ours; None: none was, or an earlier release wrote it.
    """

    method_name: ClassVar[str] = "plain"
    draws: bool = True
    stored: dict[str, Any] | None = None

    def __init__(
        self,
        plans: dict[str, Any],
        configuration: str,
        fold: int,
        dataset_json: dict[str, Any],
        device: torch.device = torch.device("cuda"),  # noqa: B008 - nnU-Net's signature
    ) -> None:
        super().__init__(plans, configuration, fold, dataset_json, device)
        self.settings = resolve_settings(self.plans_manager.plans, self.method_name)
        self.num_epochs = self.settings.epochs
        self.num_iterations_per_epoch = self.settings.iterations_per_epoch
        # nnU-Net validates on one patch batch for five training batches
        self.num_val_iterations_per_epoch = max(1, self.settings.iterations_per_epoch // 5)
        self.save_every = min(self.save_every, self.settings.snapshot_interval)
        self._pace = Pace()
        draw = self.logger.plot_progress_png
        self.logger.plot_progress_png = lambda folder: draw(folder) if self.draws else None

    def initialize(self) -> None:
        """Seed, so that fresh weights are the same in every run, and build network and optimiser."""
        seed_all((self.settings.seed,))
        super().initialize()

    def on_train_start(self) -> None:
        """Check the settings and the warm start before any work is done, then print the settings and start from it.

        Raises:
            ValueError: the training was begun with other settings.
        """
        if self.stored is not None:
            refuse_other_settings(self.stored["settings"], self.settings, self.stored["file"])
        start = None
        if self.settings.start_from is not None and self.current_epoch == 0:
            start = resolve_start(self.settings.start_from, self)
        super().on_train_start()
        self.print_to_log_file("Settings of this training:\n" + self.settings.describe(), add_timestamp=False)
        if start is not None:
            load_weights(self, start)
            self.print_to_log_file(f"Started from {start}, segmentation heads included")

    def on_train_epoch_start(self) -> None:
        """Seed the epoch (for dropout and the like)."""
        seed_all((self.settings.seed, self.local_rank, 0, self.current_epoch))
        super().on_train_epoch_start()

    def on_epoch_end(self) -> None:
        """Log the epoch and write checkpoints; draw the curves of the first and the last epoch, and now and then."""
        self.draws = self._pace.due(anyway=self.current_epoch in (0, self.num_epochs - 1))
        super().on_epoch_end()

    def get_dataloaders(self) -> tuple[Iterator[dict[str, Any]], Iterator[dict[str, Any]]]:
        """Return endless training batches and validation batches that are the same in every epoch."""
        with environment(nnUNet_n_proc_DA="0"):  # nnU-Net would start its own, unseeded workers
            train, val = super().get_dataloaders()
        workers = get_allowed_n_proc_DA()
        seed = self.settings.seed, self.local_rank
        first = self.current_epoch * self.num_iterations_per_epoch
        pin = self.device.type == "cuda"
        return (
            stream(SeededBatches(train.data_loader, (*seed, 1)), itertools.count(first), workers, pin),
            stream(
                SeededBatches(val.data_loader, (*seed, 2)),
                itertools.cycle(range(self.num_val_iterations_per_epoch)),
                (workers + 1) // 2,
                pin,
            ),
        )

    def to_store(self) -> dict[str, Any]:
        """What a checkpoint holds of ours: numbers, strings and tensors."""
        return {"method": self.method_name, "settings": {key: getattr(self.settings, key) for key in DECISIVE}}

    def save_checkpoint(self, filename: str) -> None:
        """Write nnU-Net's checkpoint, ours inside, so that a power cut leaves the old one or the new one."""
        self.my_init_kwargs["nnunet_ima"] = self.to_store()
        if self.local_rank != 0 or self.disable_checkpointing:
            super().save_checkpoint(filename)
            return
        with atomic_file(Path(filename)) as stream:
            super().save_checkpoint(stream)  # nnU-Net hands it to torch.save

    def load_checkpoint(self, filename_or_checkpoint: Any) -> None:
        """Load nnU-Net's checkpoint and ours in it; nnU-Net alone would look at neither check sums nor code.

        Raises:
            ValueError: the file is damaged, or would run code.
        """
        if isinstance(filename_or_checkpoint, str | Path):
            load_checkpoint(Path(filename_or_checkpoint), way_out=f"Go on from another file of {self.output_folder}")
        super().load_checkpoint(filename_or_checkpoint)
        stored = self.my_init_kwargs.pop("nnunet_ima", None)
        self.stored = None if stored is None else {**stored, "file": str(filename_or_checkpoint)}

    def on_train_end(self) -> None:
        """Write the final checkpoint, forget the end that a choice of snapshots had kept, and stop the workers."""
        super().on_train_end()
        if self.local_rank == 0:
            (Path(self.output_folder) / FORMER).unlink(missing_ok=True)
        self.dataloader_train = self.dataloader_val = None


@contextmanager
def environment(**variables: str) -> Iterator[None]:
    """Set environment variables for a while."""
    before = {name: os.environ.get(name) for name in variables}
    os.environ.update(variables)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value
