"""IMA training inside nnU-Net: `nnUNetv2_train DATASET CONFIGURATION FOLD -tr nnUNetTrainerIMA`."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict
from functools import partial
from math import prod
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
import torch
from torch import Tensor, autocast
from torch import distributed as dist
from torch._dynamo import OptimizedModule

from nnunet_ima.attacks.losses import bound
from nnunet_ima.attacks.pgd import pgd
from nnunet_ima.attacks.problem import Problem
from nnunet_ima.ima.bpgd import BoundarySamples, Search, bpgd
from nnunet_ima.ima.margins import MarginTable, Sample
from nnunet_ima.ima.objective import weights
from nnunet_ima.perturbation.budget import Budget
from nnunet_ima.perturbation.norms import NORMS
from nnunet_ima.tasks.criteria import DiceCriterion
from nnunet_ima.tasks.voxelwise import Labels, mean_dice_present, overlap_counts, segmentation_loss
from nnunet_ima.training.attackable import attackable
from nnunet_ima.training.epoch_log import SERIES, EpochTally, register_series
from nnunet_ima.training.scheduled import ScheduledTrainer
from nnunet_ima.training.settings import refuse_other_settings
from nnunet_ima.training.snapshots import Snapshot, add_snapshot
from nnunet_ima.training.warm_start import bare_network


class nnUNetTrainerIMA(ScheduledTrainer):
    """Increasing-margin adversarial training (Ma & Liang 2023) of any nnU-Net configuration.

    One step: a clean pass, which serves the loss and tells which samples the model is right about; BPGD on those;
    a second pass on the boundary samples. The clean pass is back-propagated before the attack begins, so that no two
    graphs are held at once.
    """

    resumed: dict[str, Any] | None = None  # settings and file of the checkpoint that was loaded

    def initialize(self) -> None:
        """Build nnU-Net's parts, then those of the method."""
        super().initialize()
        settings = self.settings
        manager = self.label_manager
        self.labels = Labels(
            regions=manager.has_regions, ignore=manager.ignore_label if manager.has_ignore_label else None
        )
        self.norm = NORMS[settings.norm]
        self.criterion = DiceCriterion(settings.tau, settings.reduction, self.labels)
        self.search = Search(
            steps=settings.pgd_steps,
            alpha=settings.alpha,
            tolerance=settings.bisection_tolerance,
            bisections=settings.bisection_steps,
        )
        # in a cascade the previous stage's one-hot channels follow the image; noise is for the image alone
        self.image_channels = len(self.dataset_json.get("channel_names", self.dataset_json.get("modality")))
        self.budget = Budget(
            settings.norm,
            self.image_channels * prod(self.configuration_manager.patch_size),
            settings.reference_elements,
        )
        self.robust_eps = settings.robust_eps or settings.eps_max / 2
        self.margin_table: MarginTable | None = None
        self.iteration = 0
        self.tally = EpochTally()
        register_series(self.logger.local_logger.my_fantastic_logging)

    def on_train_start(self) -> None:
        """Make the margin table of the fold's training cases, or check what is resumed against them and the settings.

        Raises:
            ValueError: the training was begun with other settings or other cases.
        """
        if self.resumed is not None:
            refuse_other_settings(self.resumed["settings"], self.settings, self.resumed["file"])
        super().on_train_start()
        stored = self.margin_table
        self.margin_table = MarginTable(self.do_split()[0], self.settings.delta, self.settings.eps_max)
        if stored is not None:
            self.margin_table.load_state_dict(stored.state_dict())
        self.print_to_log_file(
            f"Noise: largest margin {self.budget.describe(self.settings.eps_max)}; "
            f"expansion per epoch {self.budget.describe(self.settings.delta)}",
            add_timestamp=False,
        )

    # one step --------------------------------------------------------------------------------------------------

    def train_step(self, batch: dict[str, Any]) -> dict[str, Any]:
        """Algorithm 1 on one batch; returns nnU-Net's dictionary."""
        begin = perf_counter()
        data = batch["data"].to(self.device, non_blocking=True)
        target = batch["target"]
        target = [t.to(self.device, non_blocking=True) for t in (target if isinstance(target, list) else [target])]
        self.optimizer.zero_grad(set_to_none=True)

        free_gradient = self.settings.start == "gradient"
        data.requires_grad_(free_gradient)
        with self._without_gradient_sync():
            clean, logits = self._losses(data, target)
            score = self.criterion.score(logits, target[0])
            attacked = (score >= 0).nonzero()[:, 0]
            clean_weight, boundary_weight = weights(len(attacked) > 0, self.settings.beta)
            self._backward(clean_weight * clean.mean())
        gradient = data.grad[attacked] if free_gradient else None
        data.requires_grad_(False).grad = None
        loss = clean_weight * clean.detach().mean()
        del clean, logits

        names = self.sample_names(batch)
        samples = [names[i] for i in attacked.tolist()]
        found = self._attack(data[attacked], target[0][attacked], samples, score[attacked], gradient)
        boundary = self._boundary_loss(data, target, attacked, found)
        self._backward(boundary_weight * boundary)
        self._optimizer_step()

        if found is not None:
            self.margin_table.observe(samples, found.crossed, found.size / self.budget.scale)
        self.tally.add(len(data), found, perf_counter() - begin)
        self.iteration += 1
        return {"loss": (loss + boundary_weight * boundary.detach()).cpu().numpy()}

    def sample_names(self, batch: dict[str, Any]) -> list[Sample]:
        """Names (B,) under which the samples of a batch have their margins."""
        cases = [str(case) for case in batch["keys"]]
        if self.settings.margin_key == "case" or "slices" not in batch:
            return list(cases)
        return list(zip(cases, batch["slices"], strict=True))

    def _attack(
        self, x: Tensor, y: Tensor, samples: list[Sample], score: Tensor, gradient: Tensor | None
    ) -> BoundarySamples | None:
        """Run BPGD on the samples that the model is right about."""
        if len(x) == 0:
            return None
        scale = self.budget.scale
        with self._attackable_network() as model:
            return bpgd(
                model,
                x,
                y,
                self.margin_table.radius(samples).to(x) * scale,
                norm=self.norm,
                criterion=self.criterion,
                loss=self._attack_loss,
                score=score,
                expansion=self.settings.delta * scale,
                generator=self._generator(self.iteration),
                search=self.search,
                gradient=gradient,
                free=self._free(x),
            )

    def _boundary_loss(
        self, data: Tensor, target: list[Tensor], attacked: Tensor, found: BoundarySamples | None
    ) -> Tensor:
        """Mean loss on the boundary samples; 0 if none was attacked."""
        if found is None:
            if not self.is_ddp:
                return data.new_zeros((), requires_grad=True)
            # every rank owes the others one pass with gradients to be averaged
            return 0 * self._losses(data[:1], [t[:1] for t in target])[0].sum()
        if isinstance(self._module(), OptimizedModule):
            # a compiled network keeps the shape it was compiled for
            padded = data.clone()
            padded[attacked] = found.x
            return self._losses(padded, target)[0][attacked].mean()
        return self._losses(found.x, [t[attacked] for t in target])[0].mean()

    def _losses(self, data: Tensor, target: list[Tensor]) -> tuple[Tensor, Tensor]:
        """Per-sample losses over all deep supervision outputs, and the detached logits of full resolution."""
        with self._autocast():
            outputs = self.network(data)
        outputs = outputs if isinstance(outputs, (list, tuple)) else [outputs]
        scales = self.loss.weight_factors if self.enable_deep_supervision else [1.0]
        losses = sum(
            weight * segmentation_loss(output, truth, self.labels)
            for weight, output, truth in zip(scales, outputs, target, strict=True)
            if weight != 0
        )
        return losses, outputs[0].detach()

    def _free(self, x: Tensor) -> Tensor | None:
        """Where noise may go: not on the channels that a cascade adds."""
        if x.shape[1] == self.image_channels:
            return None
        free = x.new_zeros(1, x.shape[1], *[1] * (x.ndim - 2))
        free[:, : self.image_channels] = 1
        return free

    def _attack_loss(self, logits: Tensor, target: Tensor) -> Tensor:
        return segmentation_loss(logits, target, self.labels)

    def _backward(self, loss: Tensor) -> None:
        (loss if self.grad_scaler is None else self.grad_scaler.scale(loss)).backward()

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

    # the network under attack ----------------------------------------------------------------------------------

    def _module(self) -> torch.nn.Module:
        return self.network.module if self.is_ddp else self.network

    def _autocast(self) -> Any:
        return autocast(self.device.type) if self.device.type == "cuda" else nullcontext()

    def _without_gradient_sync(self) -> Any:
        return self.network.no_sync() if self.is_ddp else nullcontext()

    def _attackable_network(self) -> AbstractContextManager[Callable[[Tensor], Tensor]]:
        return attackable(bare_network(self.network), self._autocast)

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

    def on_train_epoch_end(self, train_outputs: list[dict[str, Any]]) -> None:
        """Algorithm 2: move the margins, with the visits of all ranks."""
        super().on_train_epoch_end(train_outputs)
        visits, tallies = self._gathered(self.margin_table.visits), self._gathered(self.tally)
        self.margin_table.end_epoch([visit for rank in visits for visit in rank])
        self.tally = sum(tallies[1:], tallies[0])
        for key, value in self.tally.series(self.margin_table.margins).items():
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
        y = (target[0] if isinstance(target, list) else target).to(self.device)

        with self._attackable_network() as model, torch.enable_grad():
            eps = torch.full((len(x),), self.budget.effective(self.robust_eps)).to(x)
            dice = partial(mean_dice_present, labels=self.labels)
            noisy = pgd(
                Problem(model, x, y, eps, self.norm, dice, free=self._free(x)),
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
            true_positive, false_positive, false_negative = sum(self._gathered(sum(counts)))
            robust = float(np.nanmean(2 * true_positive / (2 * true_positive + false_positive + false_negative)))
        self.logger.log("ima_robust_dice", robust, self.current_epoch)

    def on_epoch_end(self) -> None:
        """Print the epoch, let nnU-Net write its checkpoints, take a snapshot and plot."""
        epoch = self.current_epoch
        latest = {key: self.logger.get_value(key, step=-1) for key in SERIES}
        self.print_to_log_file(self.tally.describe(latest, self.robust_eps))
        super().on_epoch_end()
        if (epoch + 1) % self.settings.snapshot_interval == 0 or epoch + 1 == self.num_epochs:
            self._take_snapshot(epoch)
        if self.local_rank == 0:
            from nnunet_ima.report.progress import plot_progress  # matplotlib only where it is drawn

            plot_progress(
                self.logger.local_logger.my_fantastic_logging,
                list(self.margin_table.margins.values()),
                eps_max=self.settings.eps_max,
                robust_eps=self.robust_eps,
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
                robust_eps=self.robust_eps,
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
        """nnU-Net's checkpoint with the margins and settings inside, as plain numbers and strings."""
        margins = {} if self.margin_table is None else self.margin_table.state_dict()
        self.my_init_kwargs["nnunet_ima"] = {"margins": margins, "settings": asdict(self.settings)}
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
        if stored is None:
            msg = (
                f"{filename_or_checkpoint} holds no margins: it was not written by nnUNetTrainerIMA. "
                'To begin from it, name it in the setting start_from of the plans JSON, key "ima".'
            )
            raise ValueError(msg)
        register_series(self.logger.local_logger.my_fantastic_logging)
        self.resumed = {"settings": stored["settings"], "file": str(filename_or_checkpoint)}
        cases = [name for name in stored["margins"] if isinstance(name, str)]
        self.margin_table = MarginTable(cases, self.settings.delta, self.settings.eps_max)
        self.margin_table.load_state_dict(stored["margins"])
