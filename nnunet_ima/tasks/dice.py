"""The Dice coefficient 2 TP / (2 TP + FP + FN): of probabilities or indicators, and of counted voxels."""

from __future__ import annotations

import torch
from torch import Tensor


def dice(predicted: Tensor, truth: Tensor, smooth: float) -> Tensor:
    """Dice (B, K) over the voxels of tensors (B, K, V); without any in both it is 1.

    Args:
        predicted: probabilities, or 0 and 1.
        truth: 0 and 1.
        smooth: added above and below, so that nothing is divided by 0.
    """
    return dice_of_sums(overlap_sums(predicted, truth), smooth)


def overlap_sums(predicted: Tensor, truth: Tensor) -> Tensor:
    """Sums (3, B, K) over the voxels of such tensors that Dice is made of: of their product, and of each."""
    return torch.stack(((predicted * truth).sum(2), predicted.sum(2), truth.sum(2)))


def dice_of_sums(sums: Tensor, smooth: float) -> Tensor:
    """Dice (B, K) of `overlap_sums`; see `dice`."""
    both, predicted, truth = sums.unbind()
    return (2 * both + smooth) / (predicted + truth + smooth)


def dice_of_counts(true_positive: float, false_positive: float, false_negative: float) -> float | None:
    """Dice of numbers of voxels; None where there is nothing to count."""
    total = 2 * true_positive + false_positive + false_negative
    return 2 * true_positive / total if total else None


def pooled_dice(counts: Tensor) -> Tensor:
    """Dice (K,) of counts (3, K) of true positive, false positive and false negative voxels; NaN where all are 0."""
    found = [dice_of_counts(*(float(count) for count in column)) for column in counts.T]
    return torch.tensor([torch.nan if value is None else value for value in found], dtype=torch.float64)
