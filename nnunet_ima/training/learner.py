"""A network of nnU-Net that learns from a batch, as methods see it: AMP, DDP, deep supervision, compiled or not."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch._dynamo import OptimizedModule

from nnunet_ima.ima.margins import Sample
from nnunet_ima.methods.base import Learner, Outcome
from nnunet_ima.perturbation.few_sizes import fill, missing_samples
from nnunet_ima.perturbation.half_precision import precision
from nnunet_ima.training.attackable import attackable
from nnunet_ima.training.warm_start import bare_network


class SegmentationLearner(Learner):
    """See `Learner`; `y` is the target of full resolution.

    Under DDP all ranks make the same number of learning passes, of which the last one averages the gradients.

    Args:
        trainer: holds network, loss weights, task and gradient scaler.
        x: samples (B, C, *spatial) on the trainer's device.
        targets: of each output of the network, full resolution first.
        names: of the samples (B,).
        passes: learning passes of each rank, see `Method.learning_passes`.
        generator: source of the random draws.
    """

    def __init__(
        self,
        trainer: Any,
        x: Tensor,
        targets: Sequence[Tensor],
        names: Sequence[Sample],
        passes: int,
        generator: torch.Generator,
    ) -> None:
        self.x, self.y, self.names, self.task, self.generator = x, targets[0], names, trainer.task, generator
        self.free = noise_mask(x, trainer.image_channels)
        self._trainer, self._targets, self._left = trainer, targets, passes

    @property
    def network(self) -> nn.Module:  # type: ignore[override]
        """The bare module."""
        return bare_network(self._trainer.network)

    def __call__(self, x: Tensor, rows: Tensor | None = None) -> Outcome:
        """See `Learner`."""
        if rows is None:
            return self._pass(x, self._targets)
        # a compiled network keeps the shape it was compiled for
        missing = len(self.x) - len(x) if self._compiled else missing_samples(x, len(self.x))
        if missing == 0:
            return self._pass(x, [target[rows] for target in self._targets])
        filled = fill(rows, missing)
        whole = self._pass(fill(x, missing), [target[filled] for target in self._targets])
        return Outcome(whole.losses[: len(x)], whole.logits[: len(x)])

    def backward(self, loss: Tensor) -> None:
        """See `Learner.backward`."""
        scaler = self._trainer.grad_scaler
        (loss if scaler is None else scaler.scale(loss)).backward()

    def attackable(self, network: nn.Module | None = None) -> AbstractContextManager[Callable[[Tensor], Tensor]]:
        """See `Learner.attackable`."""
        return attackable(self.network if network is None else network, len(self.x))

    def finish(self) -> None:
        """Make the passes that a step of the method has not needed: under DDP every rank owes them to the others."""
        if self._trainer.is_ddp:
            first = torch.zeros(1, dtype=torch.long, device=self.x.device)
            while self._left:
                self.backward(0 * self(self.x[:1], first).losses.sum())

    def _pass(self, x: Tensor, targets: Sequence[Tensor]) -> Outcome:
        self._left -= 1
        trainer = self._trainer
        with trainer.network.no_sync() if trainer.is_ddp and self._left else nullcontext(), precision(trainer.device):
            outputs = trainer.network(x)
        outputs = outputs if isinstance(outputs, (list, tuple)) else [outputs]
        scales = trainer.loss.weight_factors if trainer.enable_deep_supervision else [1.0]
        losses = sum(
            weight * self.task.loss(output, truth)
            for weight, output, truth in zip(scales, outputs, targets, strict=True)
            if weight != 0
        )
        return Outcome(losses, outputs[0])

    @property
    def _compiled(self) -> bool:
        network = self._trainer.network
        return isinstance(network.module if self._trainer.is_ddp else network, OptimizedModule)


def noise_mask(x: Tensor, image_channels: int) -> Tensor | None:
    """Where noise may go (1, C, ...): not on the one-hot channels that a cascade adds; None: everywhere."""
    if x.shape[1] == image_channels:
        return None
    free = x.new_zeros(1, x.shape[1], *[1] * (x.ndim - 2))
    free[:, :image_channels] = 1
    return free
