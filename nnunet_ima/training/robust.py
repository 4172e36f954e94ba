"""What every defence needs inside nnU-Net, once: its step, its epochs, its logs, snapshots and checkpoints."""

from __future__ import annotations

from math import prod
from pathlib import Path
from time import perf_counter
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor
from torch import distributed as dist

from nnunet_ima.attacks.losses import bound
from nnunet_ima.attacks.pgd import pgd
from nnunet_ima.attacks.problem import Problem
from nnunet_ima.ima.margins import Sample
from nnunet_ima.methods import Method, Run, make_method
from nnunet_ima.perturbation.budget import Budget
from nnunet_ima.tasks.dice import pooled_dice
from nnunet_ima.tasks.segmentation import Segmentation
from nnunet_ima.tasks.voxelwise import Labels, overlap_counts
from nnunet_ima.training.attackable import attackable
from nnunet_ima.training.epoch_log import SERIES, EpochTally, register_series
from nnunet_ima.training.learner import SegmentationLearner, noise_mask, precision
from nnunet_ima.training.scheduled import ScheduledTrainer
from nnunet_ima.training.settings import refuse_other_settings
from nnunet_ima.training.snapshots import Snapshot, add_snapshot
from nnunet_ima.training.warm_start import bare_network


class RobustTrainer(ScheduledTrainer):
    """Training of any nnU-Net configuration with one of our methods.

    Attributes:
        method_name: of the method, which the thin trainers set.
        method: the method with its state.
        resumed: settings, state of the method and file of the checkpoint that was loaded.
    """

    method_name: ClassVar[str] = "ima"
    method: Method
    resumed: dict[str, Any] | None = None

    def initialize(self) -> None:
        """Build nnU-Net's parts, then those of the method."""
        super().initialize()
        settings, manager = self.settings, self.label_manager
        self.labels = Labels(
            regions=manager.has_regions, ignore=manager.ignore_label if manager.has_ignore_label else None
        )
        self.task = Segmentation(self.labels, settings.tau, settings.reduction)
        # in a cascade the previous stage's one-hot channels follow the image; noise is for the image alone
        self.image_channels = len(self.dataset_json.get("channel_names", self.dataset_json.get("modality")))
        elements = self.image_channels * prod(self.configuration_manager.patch_size)
        self.budget = Budget(settings.norm, elements, settings.reference_elements)
        self.method = self._new_method(())
        self.iteration = 0
        self.tally = EpochTally()
        register_series(self.logger.local_logger.my_fantastic_logging)

    def _new_method(self, cases: tuple[str, ...]) -> Method:
        run = Run(cases, self.settings.epochs, self.budget, augmented=True)
        return make_method(self.settings.method, run, self.settings.options)

    def on_train_start(self) -> None:
        """Give the method the fold's training cases, or check what is resumed against them and the settings.

        Raises:
            ValueError: the training was begun with other settings or other cases.
        """
        if self.resumed is not None:
            refuse_other_settings(self.resumed["settings"], self.settings, self.resumed["file"])
        super().on_train_start()
        self.method = self._new_method(tuple(self.do_split()[0]))
        if self.resumed is not None:
            self.method.load_state_dict(self.resumed["state"])
        if "eps" in self.settings.options:
            self.print_to_log_file(f"Noise: {self.budget.describe(self.settings.options['eps'])}", add_timestamp=False)

    # one step --------------------------------------------------------------------------------------------------

    def train_step(self, batch: dict[str, Any]) -> dict[str, Any]:
        """One step of the method and of nnU-Net's optimiser; returns nnU-Net's dictionary."""
        begin = perf_counter()
        self.optimizer.zero_grad(set_to_none=True)
        learner = self.learner(batch)
        loss, log = self.method.step(learner)
        learner.finish()
        self._optimizer_step()
        self.method.learnt(bare_network(self.network))
        self.tally.add(len(learner.x), log, perf_counter() - begin)
        self.iteration += 1
        return {"loss": loss.cpu().numpy()}

    def learner(self, batch: dict[str, Any]) -> SegmentationLearner:
        """The network with a batch on its device."""
        targets = batch["target"] if isinstance(batch["target"], list) else [batch["target"]]
        return SegmentationLearner(
            self,
            batch["data"].to(self.device, non_blocking=True),
            [target.to(self.device, non_blocking=True) for target in targets],
            sample_names(batch),
            self.method.learning_passes,
            self._generator(self.iteration),
        )

    def _optimizer_step(self) -> None:
        """Clip and step as nnU-Net does."""
        if self.grad_scaler is None:
            torch.nn.utils.clip_grad_norm_(self.network.parameters(), 12)
            self.optimizer.step()
            return
        self.grad_scaler.unscale_(self.optimizer)
        torch.nn.utils.clip_grad_norm_(self.network.parameters(), 12)
        self.grad_scaler.step(self.optimizer)
        self.grad_scaler.update()

    def _generator(self, *stream: int) -> torch.Generator:
        """Noise source of one attack; a function of the seed, so that nothing has to be stored."""
        words = np.random.SeedSequence((self.settings.seed, self.local_rank, 3, *stream)).generate_state(1, np.uint64)
        return torch.Generator().manual_seed(int(words[0]))

    # one epoch -------------------------------------------------------------------------------------------------

    def on_train_epoch_start(self) -> None:
        """Begin counting."""
        super().on_train_epoch_start()
        self.iteration = self.current_epoch * self.num_iterations_per_epoch
        self.tally = EpochTally()
        self.method.begin_epoch(self.current_epoch)

    def on_train_epoch_end(self, train_outputs: list[dict[str, Any]]) -> None:
        """Let the method finish the epoch, with what all ranks have seen, and log it."""
        super().on_train_epoch_end(train_outputs)
        self.method.end_epoch(self._gathered)
        tallies = self._gathered(self.tally)
        self.tally = sum(tallies[1:], tallies[0])
        for key, value in self.tally.series(self.method.margins()).items():
            self.logger.log(key, value, self.current_epoch)

    def on_validation_epoch_start(self) -> None:
        """Decide whether this epoch measures robustness."""
        super().on_validation_epoch_start()
        interval = self.settings.robust_interval
        due = interval and ((self.current_epoch + 1) % interval == 0 or self.current_epoch + 1 == self.num_epochs)
        # a tenth of the validation batches under attack cost about as much as all of them clean
        self.robust_batches = max(1, self.num_val_iterations_per_epoch // 10) if due else 0
        self.validated_batches = 0

    def validation_step(self, batch: dict[str, Any]) -> dict[str, Any]:
        """nnU-Net's, and Dice counts under attack for the first batches of an epoch that measures them."""
        robust = self._robust_counts(batch) if self.validated_batches < self.robust_batches else None
        self.validated_batches += 1
        outputs = super().validation_step(batch)  # after ours: it may overwrite the target
        if robust is not None:
            outputs["robust_counts"] = robust
        return outputs

    def _robust_counts(self, batch: dict[str, Any]) -> np.ndarray:
        """Voxels (3, K): true positive, false positive, false negative under PGD at the fixed ε."""
        x = batch["data"].to(self.device)
        target = batch["target"]
        y: Tensor = (target[0] if isinstance(target, list) else target).to(self.device)
        network = bare_network(self.network)
        with attackable(network, lambda: precision(self.device)) as model, torch.enable_grad():
            eps = torch.full((len(x),), self.budget.effective(self.settings.robust_eps)).to(x)
            free = noise_mask(x, self.image_channels)
            noisy = pgd(
                Problem(model, x, y, eps, self.method.run.norm, self.task.quality, free=free),
                bound("dice_ce", self.labels),
                steps=self.settings.robust_steps,
                generator=self._generator(self.validated_batches),
            ).x
            with torch.no_grad():
                return overlap_counts(model(noisy), y, self.labels).sum(1).cpu().numpy()

    def on_validation_epoch_end(self, val_outputs: list[dict[str, Any]]) -> None:
        """Log nnU-Net's pseudo-Dice and the robust one (None where it was not measured)."""
        counts = [outputs.pop("robust_counts") for outputs in val_outputs if "robust_counts" in outputs]
        super().on_validation_epoch_end(val_outputs)
        robust = None
        if self.robust_batches:
            robust = float(pooled_dice(torch.from_numpy(sum(self._gathered(sum(counts))))).nanmean())
        self.logger.log("ima_robust_dice", robust, self.current_epoch)

    def on_epoch_end(self) -> None:
        """Print the epoch, let nnU-Net write its checkpoints, take a snapshot and plot."""
        epoch = self.current_epoch
        latest = {key: self.logger.get_value(key, step=-1) for key in SERIES}
        self.print_to_log_file(self.tally.describe(latest, self.settings.robust_eps))
        super().on_epoch_end()
        if (epoch + 1) % self.settings.snapshot_interval == 0 or epoch + 1 == self.num_epochs:
            self._take_snapshot(epoch)
        if self.local_rank == 0:
            from nnunet_ima.report.progress import plot_progress  # matplotlib only where it is drawn

            margins = self.method.margins()
            plot_progress(
                self.logger.local_logger.my_fantastic_logging,
                None if margins is None else list(margins.values()),
                largest=self.settings.options.get("eps"),
                robust_eps=self.settings.robust_eps,
                file=Path(self.output_folder) / "ima_progress.png",
            )

    def _take_snapshot(self, epoch: int) -> None:
        """Store the weights with their place in the trade-off between clean Dice and margin."""
        if self.local_rank != 0 or self.disable_checkpointing:
            return
        file = Path(self.output_folder) / "snapshots" / f"epoch_{epoch + 1:04d}.pth"
        file.parent.mkdir(exist_ok=True)
        self.current_epoch = epoch  # nnU-Net stores the next epoch's number, and has moved on already
        self.save_checkpoint(str(file))
        self.current_epoch = epoch + 1
        add_snapshot(
            Path(self.output_folder),
            Snapshot(
                epoch=epoch + 1,
                file=f"snapshots/{file.name}",
                clean_dice=float(self.logger.get_value("mean_fg_dice", step=epoch)),
                robust_dice=self.logger.get_value("ima_robust_dice", step=epoch),
                robust_eps=self.settings.robust_eps,
                mean_margin=self.logger.get_value("ima_margin_mean", step=epoch),
                largest_margin=self.logger.get_value("ima_margin_max", step=epoch),
            ),
        )

    def _gathered(self, value: Any) -> list[Any]:
        """The values of all ranks."""
        if not self.is_ddp:
            return [value]
        values = [None] * dist.get_world_size()
        dist.all_gather_object(values, value)
        return values

    # checkpoints -----------------------------------------------------------------------------------------------

    def save_checkpoint(self, filename: str) -> None:
        """nnU-Net's checkpoint with the method's state and the settings inside: numbers, strings and tensors."""
        self.my_init_kwargs["nnunet_ima"] = {
            "method": self.method_name,
            "state": self.method.state_dict(),
            "settings": self.settings.as_dict(),
        }
        super().save_checkpoint(filename)

    def load_checkpoint(self, filename_or_checkpoint: Any) -> None:
        """Load nnU-Net's part and ours.

        Raises:
            ValueError: the checkpoint was not written by this trainer.
        """
        if not self.was_initialized:
            self.initialize()
        super().load_checkpoint(filename_or_checkpoint)
        stored = self.my_init_kwargs.pop("nnunet_ima", None)
        method = None if stored is None else stored.get("method", "ima")  # release 0.1 knew no other
        if method != self.method_name:
            msg = (
                f"{filename_or_checkpoint} holds nothing of the method {self.method_name}: {type(self).__name__} did "
                "not write it. To begin from it, name it in the setting start_from of the plans JSON."
            )
            raise ValueError(msg)
        register_series(self.logger.local_logger.my_fantastic_logging)
        state = stored["state"] if "state" in stored else {"margins": stored["margins"]}
        self.resumed = {"settings": stored["settings"], "state": state, "file": str(filename_or_checkpoint)}


def sample_names(batch: dict[str, Any]) -> list[Sample]:
    """Names (B,) of the samples of a batch: their case, in 2D their case and slice."""
    cases = [str(case) for case in batch["keys"]]
    return list(zip(cases, batch["slices"], strict=True)) if "slices" in batch else list(cases)
