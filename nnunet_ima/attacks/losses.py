"""Losses to climb, of segmentation and of classification.

Plain cross-entropy is a weak attack on segmentation: its gradient is largest on voxels that are wrong already, it
vanishes on confident right ones, and background voxels dominate its mean.

Each is called with logits (B, K, *spatial), target, `Labels` and the share of the steps that is done; each returns
losses (B,), computed in float32, means over valid voxels; those of classification know no `Labels`. Region-based
targets make every region a binary problem of its own. Below, p is the probability of a voxel's true class,
CE = -log p, and c is 1 where the prediction is right.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from nnunet_ima.attacks.problem import Loss
from nnunet_ima.tasks.classification import Classification
from nnunet_ima.tasks.dice import dice_of_sums, overlap_sums
from nnunet_ima.tasks.slabs import summed
from nnunet_ima.tasks.voxelwise import Labels, segmentation_loss

SegmentationLoss = Callable[[Tensor, Tensor, Labels, float], Tensor]


@dataclass(frozen=True)
class AttackLoss:
    """A loss by its name in the registry.

    Attributes:
        function: the loss; that of classification takes no `Labels`.
        keeps_form: it is the same function at every step, so that its course tells whether an attack has converged.
    """

    function: SegmentationLoss | Loss
    keeps_form: bool = True


def dice_ce(logits: Tensor, target: Tensor, labels: Labels, progress: float) -> Tensor:
    """One minus the mean soft Dice, plus cross-entropy: what nnU-Net is trained with."""
    return segmentation_loss(logits, target, labels)


def dice(logits: Tensor, target: Tensor, labels: Labels, progress: float) -> Tensor:
    """One minus the mean soft Dice over foreground classes or regions."""

    def sums(logits: Tensor, target: Tensor) -> tuple[Tensor]:
        truth, valid = labels.read(target, logits.shape[1])
        foreground = labels.foreground(truth, valid, logits.shape[1])
        logits = logits.flatten(2).float()
        predicted = torch.sigmoid(logits) if labels.regions else F.softmax(logits, 1)[:, 1:]
        predicted = predicted if valid is None else predicted * valid
        return (overlap_sums(predicted, foreground),)

    return 1 - dice_of_sums(summed(sums, logits, target)[0], smooth=1e-5).mean(1)


def masked_ce(logits: Tensor, target: Tensor, labels: Labels, progress: float) -> Tensor:
    """Masked cross-entropy c · CE: what is wrong already counts no longer (Xie et al. 2017, arXiv 1703.08603)."""
    return _mean(lambda voxels: voxels.right * voxels.entropy, logits, target, labels)


def balanced_masked_ce(logits: Tensor, target: Tensor, labels: Labels, progress: float) -> Tensor:
    """Balanced c · CE / N_y, N_y voxels being of the true class (Croce et al. 2023, arXiv 2306.12941).

    It is scaled to the mean over the classes present of their mean c · CE.
    """
    counts = _class_counts(logits, target, labels)

    def sums(logits: Tensor, target: Tensor) -> tuple[Tensor]:
        voxels = _Voxels.of(logits, target, labels)
        return ((voxels.right * voxels.entropy * voxels.balance(counts)).sum((1, 2)),)

    return summed(sums, logits, target)[0]


def js(logits: Tensor, target: Tensor, labels: Labels, progress: float) -> Tensor:
    """Jensen-Shannon divergence of prediction and truth (Croce et al. 2023); at most log 2 at any voxel."""

    def values(voxels: _Voxels) -> Tensor:
        p = voxels.log_p.exp()
        return math.log(2) + (p * voxels.log_p - (1 + p) * torch.log1p(p)) / 2

    return _mean(values, logits, target, labels)


def segpgd(logits: Tensor, target: Tensor, labels: Labels, progress: float) -> Tensor:
    """(1 - λ) · c · CE + λ · (1 - c) · CE, λ = progress / 2 (Gu et al. 2022, arXiv 2207.12391)."""
    share = progress / 2

    def values(voxels: _Voxels) -> Tensor:
        return torch.where(voxels.right > 0, 1 - share, share) * voxels.entropy

    return _mean(values, logits, target, labels)


def cospgd(logits: Tensor, target: Tensor, labels: Labels, progress: float) -> Tensor:
    """Cosine of predicted and true distribution, held fixed, times CE (Agnihotri et al. 2024, arXiv 2302.02213)."""
    return _mean(lambda voxels: voxels.cosine.detach() * voxels.entropy, logits, target, labels)


def cross_entropy(logits: Tensor, y: Tensor, progress: float) -> Tensor:
    """Cross-entropy (B,) of a classifier's logits (B, K) with classes (B,)."""
    return Classification().loss(logits, y)


def overtaking(logits: Tensor, y: Tensor, progress: float) -> Tensor:
    """Lead (B,) of another class in a classifier's logits (B, K); unlike cross-entropy it never saturates."""
    return -Classification().score(logits, y)


LOSSES: dict[str, AttackLoss] = {
    "dice_ce": AttackLoss(dice_ce),
    "masked_ce": AttackLoss(masked_ce),
    "balanced_masked_ce": AttackLoss(balanced_masked_ce),
    "js": AttackLoss(js),
    "segpgd": AttackLoss(segpgd, keeps_form=False),
    "cospgd": AttackLoss(cospgd),
    "dice": AttackLoss(dice),
}
CLASS_LOSSES: dict[str, AttackLoss] = {
    "cross_entropy": AttackLoss(cross_entropy),
    "overtaking": AttackLoss(overtaking),
}
# What an attack climbs that is the same for both tasks, in segmentation and in classification: what networks are
# trained with, and what a search without gradients sees best.
ROLES = {"trained": ("dice_ce", "cross_entropy"), "searched": ("dice_ce", "overtaking")}


def find_loss(name: str, labels: Labels | None) -> AttackLoss:
    """Return the loss of a name or role.

    Args:
        name: in `LOSSES`, `CLASS_LOSSES` or `ROLES`.
        labels: how targets are read; None: they are classes.

    Raises:
        ValueError: the task has no such loss.
    """
    known, task = (CLASS_LOSSES, "classification") if labels is None else (LOSSES, "segmentation")
    name = ROLES[name][labels is None] if name in ROLES else name
    if name not in known:
        msg = f"{name} is no loss of {task}, whose losses are {', '.join(known)}"
        raise ValueError(msg)
    return known[name]


def bound(name: str, labels: Labels | None) -> Loss:
    """The loss of a name or role (see `find_loss`), for targets that are read this way."""
    function: Any = find_loss(name, labels).function
    if labels is None:
        found: Loss = function
        return found

    def loss(logits: Tensor, target: Tensor, progress: float) -> Tensor:
        value: Tensor = function(logits, target, labels, progress)
        return value

    return loss


@dataclass(frozen=True)
class _Voxels:
    """Log-probability of the truth, its cosine with the prediction, right ones and valid ones, (B, R, V) each.

    R is the number of regions, 1 for label maps.
    """

    log_p: Tensor
    cosine: Tensor
    right: Tensor
    valid: Tensor
    truth: Tensor

    @classmethod
    def of(cls, logits: Tensor, target: Tensor, labels: Labels) -> _Voxels:
        """Read logits (B, K, *spatial) and a target; see `Labels.read`."""
        truth, valid = labels.read(target, logits.shape[1])
        logits = logits.flatten(2).float()
        if labels.regions:
            sign = 2 * truth - 1
            log_p, log_other = F.logsigmoid(sign * logits), F.logsigmoid(-sign * logits)
            right = (logits > 0) == (truth > 0)
            log_norm = torch.logaddexp(2 * log_p, 2 * log_other) / 2
        else:
            truth = truth[:, None]
            log_probabilities = F.log_softmax(logits, 1)
            log_p = log_probabilities.gather(1, truth)
            right = logits.max(1, keepdim=True).indices == truth
            log_norm = torch.logsumexp(2 * log_probabilities, 1, keepdim=True) / 2
        ones = torch.ones_like(log_p)
        valid = ones if valid is None else ones * valid
        return cls(log_p, (log_p - log_norm).exp(), right.float(), valid, truth.long())

    @property
    def entropy(self) -> Tensor:
        """Cross-entropy (B, R, V)."""
        return -self.log_p

    def balance(self, counts: Tensor) -> Tensor:
        """Weights (B, R, V) under which the classes present weigh the same, of each region; they sum to 1.

        Args:
            counts: see `_class_counts`.
        """
        present = (counts > 0).sum((1, 2)).clamp_min(1)
        return self.valid / counts.gather(2, self.truth).clamp_min(1) / present[:, None, None]


def _mean(values: Callable[[_Voxels], Tensor], logits: Tensor, target: Tensor, labels: Labels) -> Tensor:
    """Mean (B,) over valid voxels of values (B, R, V) at each of them."""

    def sums(logits: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
        voxels = _Voxels.of(logits, target, labels)
        return (values(voxels) * voxels.valid).sum((1, 2)), voxels.valid.sum((1, 2))

    total, count = summed(sums, logits, target)
    return total / count.clamp_min(1)


def _class_counts(logits: Tensor, target: Tensor, labels: Labels) -> Tensor:
    """Number of valid voxels (B, R, classes) of each class, of regions: outside and inside."""
    channels = logits.shape[1]

    def sums(logits: Tensor, target: Tensor) -> tuple[Tensor]:
        truth, valid = labels.read(target, channels)
        truth = truth.long() if labels.regions else truth[:, None]
        ones = torch.ones_like(truth, dtype=torch.float32)
        counts = ones.new_zeros((*truth.shape[:2], 2 if labels.regions else channels))
        return (counts.scatter_add(2, truth, ones if valid is None else ones * valid),)

    return summed(sums, logits.detach(), target)[0]
