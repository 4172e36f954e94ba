"""Segmentation as a task: voxel-wise loss, hard Dice."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor

from nnunet_ima.tasks.voxelwise import Labels, hard_dice, mean_dice_present, mean_over_voxels, segmentation_loss


@dataclass(frozen=True)
class Segmentation:
    """Dice + cross-entropy is learned; a sample is right if the Dice of its foreground classes is at least τ.

    Attributes:
        labels: how to read the target.
        tau: the Dice demanded.
        reduction: "mean", "max" or "min" over the classes present. The reference implementation takes "max", under
            which a class may die while another keeps the sample right.
    """

    labels: Labels = field(default_factory=Labels)
    tau: float = 0.6
    reduction: str = "mean"

    def loss(self, logits: Tensor, target: Tensor) -> Tensor:
        """See `segmentation_loss`."""
        return segmentation_loss(logits, target, self.labels)

    def score(self, logits: Tensor, target: Tensor) -> Tensor:
        """Dice minus τ; -inf without foreground, where nothing can be right, and nothing is attacked."""
        dice, present = hard_dice(logits, target, self.labels)
        if self.reduction == "mean":
            reduced = (dice * present).sum(1) / present.sum(1)  # NaN where no class is present
        elif self.reduction == "max":
            reduced = dice.masked_fill(~present, -torch.inf).amax(1)
        elif self.reduction == "min":
            reduced = dice.masked_fill(~present, torch.inf).amin(1)
        else:
            msg = f'reduction must be "mean", "max" or "min", got {self.reduction!r}'
            raise ValueError(msg)
        return torch.where(present.any(1), reduced - self.tau, -torch.inf)

    def quality(self, logits: Tensor, target: Tensor) -> Tensor:
        """Mean hard Dice of the foreground classes present."""
        return mean_dice_present(logits, target, self.labels)

    def divergence(self, logits: Tensor, others: Tensor, target: Tensor) -> Tensor:
        """Mean over valid voxels of the classes' divergence; of regions, the mean of their own."""
        logits, others = logits.float(), others.float()
        if self.labels.regions:
            p = torch.sigmoid(others)
            inside = p * (F.logsigmoid(others) - F.logsigmoid(logits))
            found = (inside + (1 - p) * (F.logsigmoid(-others) - F.logsigmoid(-logits))).mean(1)
        else:
            log_p, log_q = F.log_softmax(others, 1), F.log_softmax(logits, 1)
            found = (log_p.exp() * (log_p - log_q)).sum(1)
        return mean_over_voxels(found, target, self.labels)

    def distance(self, logits: Tensor, others: Tensor, target: Tensor) -> Tensor:
        """Mean over valid voxels of the squared distance, summed over classes; of regions, the mean of their own."""
        logits, others = logits.float(), others.float()
        if self.labels.regions:
            found = (torch.sigmoid(logits) - torch.sigmoid(others)).square().mean(1)
        else:
            found = (logits.softmax(1) - others.softmax(1)).square().sum(1)
        return mean_over_voxels(found, target, self.labels)
