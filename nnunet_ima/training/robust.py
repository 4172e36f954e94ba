"""What every defence needs inside nnU-Net, once: its step, its epochs, its logs, snapshots and checkpoints."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from math import prod
from pathlib import Path
from time import perf_counter
from typing import Any, ClassVar

import numpy as np
import torch
from torch import distributed as dist

from nnunet_ima.ima.margins import Sample
from nnunet_ima.methods import Method, Run, make_method
from nnunet_ima.methods.averaging import WeightAverage
from nnunet_ima.perturbation.budget import Budget
from nnunet_ima.tasks.dice import pooled_dice
from nnunet_ima.tasks.segmentation import Segmentation
from nnunet_ima.tasks.voxelwise import Labels
from nnunet_ima.training.epoch_log import MEASURED, SERIES, EpochTally, register_series
from nnunet_ima.training.learner import SegmentationLearner
from nnunet_ima.training.scheduled import ScheduledTrainer
from nnunet_ima.training.snapshots import AVERAGED, Snapshot, add_snapshots
from nnunet_ima.training.validation import dice_counts
from nnunet_ima.training.warm_start import bare_network


class RobustTrainer(ScheduledTrainer):
    """Training of any nnU-Net configuration with one of our methods.

    Attributes:
        method_name: of the method, which the thin trainers set.
        method: the method with its state.
        average: the averaged weights, if the settings want them.
    """

    method_name: ClassVar[str] = "ima"
    method: Method
    average: WeightAverage | None

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
        steps = settings.epochs * settings.iterations_per_epoch
        self.average = WeightAverage.over(settings.average, steps) if settings.average else None
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
        super().on_train_start()
        self.method = self._new_method(tuple(self.do_split()[0]))
        if self.stored is not None:
            self.method.load_state_dict(self.stored["state"])
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
        if self.average is not None:
            self.average.update(bare_network(self.network))
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
        """Decide what this epoch measures besides nnU-Net's pseudo-Dice."""
        super().on_validation_epoch_start()
        # a tenth of the validation batches under attack cost about as much as all of them clean
        due = self._is_due(self.settings.robust_interval)
        self.robust_batches = max(1, self.num_val_iterations_per_epoch // 10) if due else 0
        self.validated_batches = 0

    def _is_due(self, interval: int) -> bool:
        """Whether something is done in this epoch that is done every so many epochs (0: never), and in the last."""
        done = self.current_epoch + 1
        return interval > 0 and (done % interval == 0 or done == self.num_epochs)

    def validation_step(self, batch: dict[str, Any]) -> dict[str, Any]:
        """nnU-Net's, and the Dice counts that this epoch measures."""
        measured = self._measured(batch)
        self.validated_batches += 1
        return super().validation_step(batch) | {"measured": measured}  # after ours: it may overwrite the target

    def _measured(self, batch: dict[str, Any]) -> dict[str, np.ndarray]:
        """Counts (3, K) for the series of `epoch_log.MEASURED`."""
        attacked = self.validated_batches < self.robust_batches
        counts = {}
        if attacked:
            noise = self._generator(self.validated_batches)
            counts["ima_robust_dice"] = dice_counts(self, bare_network(self.network), batch, noise)
        if self.average is not None and self._is_due(self.settings.snapshot_interval):
            averaged = self.average.start(bare_network(self.network))
            counts["ima_average_dice"] = dice_counts(self, averaged, batch, None)
            if attacked:
                noise = self._generator(self.validated_batches)
                counts["ima_average_robust_dice"] = dice_counts(self, averaged, batch, noise)
        return counts

    def on_validation_epoch_end(self, val_outputs: list[dict[str, Any]]) -> None:
        """Log nnU-Net's pseudo-Dice and what else was measured (None where it was not)."""
        measured = [outputs.pop("measured") for outputs in val_outputs]
        super().on_validation_epoch_end(val_outputs)
        for key in MEASURED:
            counts = [found[key] for found in measured if key in found]
            # all ranks measure the same series
            dice = pooled_dice(torch.from_numpy(sum(self._gathered(sum(counts))))) if counts else None
            self.logger.log(key, None if dice is None else float(dice.nanmean()), self.current_epoch)

    def on_epoch_end(self) -> None:
        """Print the epoch, let nnU-Net write its checkpoints, take a snapshot and plot."""
        epoch = self.current_epoch
        latest = {key: self.logger.get_value(key, step=-1) for key in SERIES}
        self.print_to_log_file(self.tally.describe(latest, self.settings.robust_eps))
        super().on_epoch_end()
        self.current_epoch = epoch  # nnU-Net has moved on already
        if self._is_due(self.settings.snapshot_interval):
            self._take_snapshots()
        self.current_epoch = epoch + 1
        if self.local_rank == 0 and self.draws:
            from nnunet_ima.report.progress import plot_progress  # matplotlib only where it is drawn

            margins = self.method.margins()
            plot_progress(
                self.logger.local_logger.my_fantastic_logging,
                None if margins is None else list(margins.values()),
                largest=self.settings.options.get("eps"),
                robust_eps=self.settings.robust_eps,
                file=Path(self.output_folder) / "ima_progress.png",
            )

    def _take_snapshots(self) -> None:
        """Store the weights, and the averaged ones, with their place in the trade-off between clean Dice and margin."""
        if self.local_rank != 0 or self.disable_checkpointing:
            return
        epoch = self.current_epoch
        file = Path(self.output_folder) / "snapshots" / f"epoch_{epoch + 1:04d}.pth"
        file.parent.mkdir(exist_ok=True)
        self.save_checkpoint(str(file))
        value = partial(self.logger.get_value, step=epoch)
        raw = Snapshot(
            epoch=epoch + 1,
            file=f"snapshots/{file.name}",
            clean_dice=float(value("mean_fg_dice")),
            robust_dice=value("ima_robust_dice"),
            robust_eps=self.settings.robust_eps,
            mean_margin=value("ima_margin_mean"),
            largest_margin=value("ima_margin_max"),
        )
        averaged = replace(
            raw, weights=AVERAGED, clean_dice=value("ima_average_dice"), robust_dice=value("ima_average_robust_dice")
        )
        add_snapshots(Path(self.output_folder), [raw] if self.average is None else [raw, averaged])

    def on_train_end(self) -> None:
        """End with the averaged weights, which the final checkpoint and nnU-Net's validation then have."""
        if self.average is not None:
            network = bare_network(self.network)
            network.load_state_dict(self.average.start(network).state_dict())
        super().on_train_end()

    def _gathered(self, value: Any) -> list[Any]:
        """The values of all ranks."""
        if not self.is_ddp:
            return [value]
        values = [None] * dist.get_world_size()
        dist.all_gather_object(values, value)
        return values

    # checkpoints -----------------------------------------------------------------------------------------------

    def to_store(self) -> dict[str, Any]:
        """See `ScheduledTrainer.to_store`: the method's state, all settings and the averaged weights."""
        return {
            "method": self.method_name,
            "state": self.method.state_dict(),
            "settings": self.settings.as_dict(),
            "average": {} if self.average is None else self.average.state_dict(),
        }

    def load_checkpoint(self, filename_or_checkpoint: Any) -> None:
        """Load nnU-Net's part and ours.

        Raises:
            ValueError: the checkpoint was not written by this trainer.
        """
        if not self.was_initialized:
            self.initialize()
        super().load_checkpoint(filename_or_checkpoint)
        stored = self.stored or {}
        method = stored.get("method", "ima") if stored else None  # release 0.1 knew no other
        if method != self.method_name:
            msg = (
                f"{filename_or_checkpoint} holds nothing of the method {self.method_name}: {type(self).__name__} did "
                "not write it. To begin from it, name it in the setting start_from of the plans JSON."
            )
            raise ValueError(msg)
        register_series(self.logger.local_logger.my_fantastic_logging)
        average = stored.pop("average", {})  # release 0.1 had none
        if self.average is not None:
            self.average.load_state_dict(average)
        if "state" not in stored:  # its margins stood beside the settings
            stored["state"] = {"margins": stored["margins"]}


def sample_names(batch: dict[str, Any]) -> list[Sample]:
    """Names (B,) of the samples of a batch: their case, in 2D their case and slice."""
    cases = [str(case) for case in batch["keys"]]
    return list(zip(cases, batch["slices"], strict=True)) if "slices" in batch else list(cases)
