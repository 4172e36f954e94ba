"""Voxel-wise loss and Dice of each sample of its own, never pooled over a batch."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

from nnunet_ima.tasks.dice import dice_of_sums, overlap_sums
from nnunet_ima.tasks.slabs import summed


@dataclass(frozen=True)
class Labels:
    """How a target is to be read.

    Attributes:
        regions: the target holds one channel per (overlapping) region and the network ends in sigmoids;
            otherwise the target is a label map and the network ends in a softmax, class 0 being the background.
        ignore: the label of voxels that count nowhere; where regions are used, any number says that the target's
            last channel marks these voxels. None: every voxel counts.
    """

    regions: bool = False
    ignore: int | None = None

    def read(self, target: Tensor, channels: int) -> tuple[Tensor, Tensor | None]:
        """Split a target into truth and mask, with space flattened to V voxels.

        Args:
            target: label map (B, 1, *spatial), or regions (B, R, *spatial), with ignored voxels (B, R + 1, *spatial).
            channels: number of channels K of the network's output.

        Returns:
            Truth, valid classes (B, V) or regions (B, R, V) as floats; mask of valid voxels (B, 1, V) as floats, None
            where all are.
        """
        target, valid = target.flatten(2), self.valid(target)
        if self.regions:
            return target[:, :channels].float(), valid
        return (target if valid is None else target.where(valid > 0, 0))[:, 0].long(), valid

    def foreground(self, truth: Tensor, valid: Tensor | None, channels: int) -> Tensor:
        """Foreground indicators (B, K - 1 or R, V) as floats, 0 where ignored, of what `read` returns."""
        if not self.regions:
            classes = torch.arange(1, channels, device=truth.device)
            truth = (truth[:, None] == classes[None, :, None]).float()
        return truth if valid is None else truth * valid

    def any_foreground(self, target: Tensor) -> Tensor:
        """Whether each target (B,), in the form that `read` takes, holds foreground that counts."""
        if self.regions:
            there = target > 0 if self.ignore is None else (target[:, :-1] > 0) & (target[:, -1:] == 0)
        else:
            there = target > 0 if self.ignore is None else (target > 0) & (target != self.ignore)
        return there.flatten(1).any(1)

    def valid(self, target: Tensor) -> Tensor | None:
        """Mask (B, 1, V) of the voxels that count, as floats; None where all do."""
        if self.ignore is None:
            return None
        target = target.flatten(2)
        return 1 - target[:, -1:].float() if self.regions else (target != self.ignore).float()


def segmentation_loss(logits: Tensor, target: Tensor, labels: Labels) -> Tensor:
    """Per-sample loss ℓ: mean over valid voxels of the cross-entropy, plus one minus the mean soft Dice.

    Args:
        logits: (B, K, *spatial).
        target: see `Labels.read`.
        labels: how to read the target.

    Returns:
        Losses (B,), in float32 at least.
    """
    entropy, valid, overlap = summed(partial(_loss_sums, labels=labels), logits, target)
    return entropy / valid.clamp_min(1) + 1 - dice_of_sums(overlap, smooth=1e-5).mean(1)


def _loss_sums(logits: Tensor, target: Tensor, labels: Labels) -> tuple[Tensor, Tensor, Tensor]:
    """Cross-entropy (B,), number of valid voxels (B,), and what soft Dice is made of (3, B, K - 1 or R)."""
    truth, valid = labels.read(target, logits.shape[1])
    foreground = labels.foreground(truth, valid, logits.shape[1])
    logits = logits.flatten(2).float()
    if labels.regions:
        entropy = F.binary_cross_entropy_with_logits(logits, truth, reduction="none").mean(1)
        probabilities = torch.sigmoid(logits)
    else:
        log_probabilities = F.log_softmax(logits, 1)
        entropy = F.nll_loss(log_probabilities, truth, reduction="none")
        probabilities = log_probabilities[:, 1:].exp()
    if valid is None:
        count = entropy.new_full(entropy.shape[:1], entropy.shape[1])
    else:
        entropy, count, probabilities = entropy * valid[:, 0], valid.sum((1, 2)), probabilities * valid
    return entropy.sum(1), count, overlap_sums(probabilities, foreground)


def hard_dice(logits: Tensor, target: Tensor, labels: Labels) -> tuple[Tensor, Tensor]:
    """Dice of the predicted segmentation, per sample and foreground class (or region).

    Returns:
        Dice (B, K - 1 or R), 1 where a class is neither predicted nor there; and booleans of the same shape that say
        which classes the target holds.
    """
    sums = _hard_sums(logits, target, labels)
    return dice_of_sums(sums, smooth=1e-8), sums[2] > 0


def mean_dice_present(logits: Tensor, target: Tensor, labels: Labels) -> Tensor:
    """Mean hard Dice (B,) over the foreground classes that each target holds; 0 where it holds none."""
    found, present = hard_dice(logits, target, labels)
    return (found * present).sum(1) / present.sum(1).clamp_min(1)


def overlap_counts(logits: Tensor, target: Tensor, labels: Labels) -> Tensor:
    """True positive, false positive and false negative voxels, shape (3, B, K - 1 or R), to pool Dice from."""
    true_positive, predicted, true = _hard_sums(logits, target, labels)
    return torch.stack((true_positive, predicted - true_positive, true - true_positive))


def _hard_sums(logits: Tensor, target: Tensor, labels: Labels) -> Tensor:
    """What the Dice of the predicted segmentation is made of, see `overlap_sums`."""

    def sums(logits: Tensor, target: Tensor) -> tuple[Tensor]:
        truth, valid = labels.read(target, logits.shape[1])
        foreground = labels.foreground(truth, valid, logits.shape[1])
        return (overlap_sums(_predicted(logits, labels, valid), foreground),)

    return summed(sums, logits.detach(), target)[0]


def mean_over_voxels(values: Tensor, target: Tensor, labels: Labels) -> Tensor:
    """Mean (B,) of values (B, *spatial) over the voxels that count; 0 where none does."""
    valid, values = labels.valid(target), values.flatten(1)
    return values.mean(1) if valid is None else (values * valid[:, 0]).sum(1) / valid.sum((1, 2)).clamp_min(1)


def _predicted(logits: Tensor, labels: Labels, valid: Tensor | None) -> Tensor:
    logits = logits.flatten(2)
    if labels.regions:
        predicted = (logits > 0).float()
    else:
        classes = torch.arange(1, logits.shape[1], device=logits.device)
        chosen = logits.max(1).indices  # argmax takes ten times as long on a CPU
        predicted = (chosen[:, None] == classes[None, :, None]).float()
    return predicted if valid is None else predicted * valid
