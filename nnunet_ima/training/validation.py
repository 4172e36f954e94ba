"""Dice of validation patches, clean and under attack, of the network that learns and of its averaged weights."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from nnunet_ima.attacks.losses import bound
from nnunet_ima.attacks.pgd import pgd
from nnunet_ima.attacks.problem import Problem
from nnunet_ima.tasks.voxelwise import overlap_counts
from nnunet_ima.training.attackable import attackable
from nnunet_ima.training.learner import noise_mask


def dice_counts(
    trainer: Any, network: nn.Module, batch: dict[str, Any], generator: torch.Generator | None
) -> np.ndarray:
    """Voxels (3, K) of a validation batch: true positive, false positive, false negative.

    Patches without foreground are attacked, too: what can be made to appear there counts in the pooled Dice.

    Args:
        trainer: a `RobustTrainer`, for its labels, settings and device.
        network: bare module.
        batch: of nnU-Net's loader; it is left as it is.
        generator: noise source of PGD at the settings' `robust_eps`; None: no attack.
    """
    x = batch["data"].to(trainer.device)
    target = batch["target"]
    y: Tensor = (target[0] if isinstance(target, list) else target).to(trainer.device)
    with attackable(network, len(x)) as model:
        if generator is not None:
            eps = torch.full((len(x),), trainer.budget.effective(trainer.settings.robust_eps)).to(x)
            free = noise_mask(x, trainer.image_channels)
            problem = Problem(model, x, y, eps, trainer.method.run.norm, partial(_quality, trainer), free=free)
            loss = bound("dice_ce", trainer.labels)
            with torch.enable_grad():
                x = pgd(problem, loss, steps=trainer.settings.robust_steps, generator=generator).x
        with torch.no_grad():
            return overlap_counts(model(x), y, trainer.labels).sum(1).cpu().numpy()


def _quality(trainer: Any, logits: Tensor, y: Tensor) -> Tensor:
    """The task's, which is 0 without foreground, where an attack would end: there, less for each wrong voxel."""
    wrong = overlap_counts(logits, y, trainer.labels)[1].sum(1)
    return torch.where(trainer.labels.any_foreground(y), trainer.task.quality(logits, y), 1 / (1 + wrong))
