"""Averaged weights: beside the raw ones in every checkpoint, and what a training ends with."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from nnunet_ima.training.snapshots import make_final, read_snapshots
from nnunet_ima.training.trainers import nnUNetTrainerAdv, nnUNetTrainerIMA


def weights(file: Path) -> dict[str, torch.Tensor]:
    return torch.load(file, map_location="cpu", weights_only=False)["network_weights"]


def same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return all(torch.equal(value, other[name]) for name, value in one.items())


@pytest.mark.parametrize("trainer", [nnUNetTrainerIMA, nnUNetTrainerAdv])
def test_a_training_ends_with_the_average_and_keeps_the_raw_weights(make_trainer, trainer: type) -> None:
    made = make_trainer(trainer=trainer, epochs=3, snapshot_interval=1, robust_interval=2, average=0.5)
    made.run_training()
    fold = Path(made.output_folder)
    raw, averaged = read_snapshots(fold)[-2:]
    assert (raw.epoch, raw.weights, averaged.epoch, averaged.weights) == (3, "raw", 3, "averaged")
    final, last = weights(fold / "checkpoint_final.pth"), weights(fold / raw.file)
    assert same(final, made.average.start(made.network).state_dict())
    assert same(final, made.network.state_dict())  # nnU-Net's validation is of these weights
    assert not same(final, last)
    assert same(weights(make_final(fold, raw)), last)
    assert same(weights(make_final(fold, averaged)), final)


def test_without_an_average_a_training_ends_with_its_last_weights(make_trainer) -> None:
    made = make_trainer(epochs=2, average=0)
    made.run_training()
    fold = Path(made.output_folder)
    (only,) = read_snapshots(fold)
    assert same(weights(fold / "checkpoint_final.pth"), weights(fold / only.file))


def test_the_average_is_measured_as_nnunet_measures(make_trainer) -> None:
    """Looking back on no more than one step, it is the raw weights, and has their Dice, clean and under attack."""
    made = make_trainer(epochs=2, iterations_per_epoch=5, snapshot_interval=1, robust_interval=2, average=1e-6)
    made.run_training()
    log = made.logger.local_logger.my_fantastic_logging
    assert log["ima_average_dice"] == pytest.approx(log["mean_fg_dice"], abs=1e-6)
    assert log["ima_average_robust_dice"] == [None, pytest.approx(log["ima_robust_dice"][1])]


def test_the_average_starts_where_an_earlier_release_stopped(make_trainer) -> None:
    first = make_trainer(epochs=2, snapshot_interval=1, average=0)
    first.run_training()
    file = Path(first.output_folder) / "snapshots" / "epoch_0001.pth"
    stored = torch.load(file, weights_only=False)
    del stored["init_args"]["nnunet_ima"]["average"]
    del stored["init_args"]["nnunet_ima"]["settings"]["average"]
    torch.save(stored, file)
    resumed = make_trainer(epochs=2, snapshot_interval=1, resume=True)
    resumed.load_checkpoint(str(file))
    resumed.run_training()
    assert [entry.weights for entry in read_snapshots(Path(resumed.output_folder))] == ["raw", "raw", "averaged"]
