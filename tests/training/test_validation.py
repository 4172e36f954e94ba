"""Dice of validation patches, clean and under attack."""

from __future__ import annotations

import torch
from trainer_fixtures import MakeTrainer

from nnunet_ima.training.validation import dice_counts


def test_only_patches_that_are_attacked_count_under_attack(make_trainer: MakeTrainer) -> None:
    """Those without foreground are not: their Dice cannot fall. Without an attack they count, as in nnU-Net."""
    trainer, numbers = make_trainer(), torch.Generator().manual_seed(0)
    trainer.on_train_start()
    batch = next(trainer.dataloader_train)
    trainer.network.eval()
    target = batch["target"] = torch.zeros_like(batch["data"][:, :1])
    target[0, :, 8:16, 8:16] = 1
    attacked, clean = (dice_counts(trainer, trainer.network, batch, source) for source in (numbers, None))
    assert (attacked[0] + attacked[2]).tolist() == (clean[0] + clean[2]).tolist() == [64, 0]
    assert clean[1].sum() > target[0].numel()  # a fresh network finds foreground everywhere
    assert 0 < attacked[1].sum() <= target[0].numel()
    target[:] = 0
    assert not dice_counts(trainer, trainer.network, batch, numbers).any()
