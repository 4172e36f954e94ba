"""Dice of validation patches, clean and under attack."""

from __future__ import annotations

import torch
from trainer_fixtures import MakeTrainer

from nnunet_ima.training.validation import dice_counts


def test_patches_without_foreground_are_attacked_too(make_trainer: MakeTrainer) -> None:
    """They count in the pooled Dice, under attack with what it makes appear there."""
    trainer, numbers = make_trainer(robust_eps=3.0), torch.Generator().manual_seed(0)
    trainer.on_train_start()
    batch = next(trainer.dataloader_train)
    trainer.network.eval()
    target = batch["target"] = torch.zeros_like(batch["data"][:, :1])
    target[0, :, 8:16, 8:16] = 1
    attacked, clean = (dice_counts(trainer, trainer.network, batch, source) for source in (numbers, None))
    assert (attacked[0] + attacked[2]).tolist() == (clean[0] + clean[2]).tolist() == [64, 0]
    target[:] = 0
    attacked, clean = (dice_counts(trainer, trainer.network, batch, source) for source in (numbers, None))
    assert attacked[1].sum() > clean[1].sum()
    assert not attacked[[0, 2]].any()
