from __future__ import annotations

from pathlib import Path

import pytest
import torch

from nnunet_ima.training.nnUNetTrainerPlain import nnUNetTrainerPlain
from nnunet_ima.training.warm_start import load_weights, resolve_start


@pytest.fixture
def finished(make_trainer):
    trainer = make_trainer(trainer=nnUNetTrainerPlain, epochs=1, seed=5)
    trainer.run_training()
    return trainer


def test_all_weights_are_taken_over_heads_included(make_trainer, finished) -> None:
    for start in (
        "nnUNetTrainerPlain__nnUNetPlans__2d",
        finished.output_folder_base,
        finished.output_folder,
        str(Path(finished.output_folder) / "checkpoint_final.pth"),
    ):
        trainer = make_trainer(start_from=start)
        trainer.on_train_start()
        states = finished.network.state_dict(), trainer.network.state_dict()
        assert any("seg_layers" in key for key in states[0])
        assert all(torch.equal(states[0][key], states[1][key]) for key in states[0])


def test_a_resumed_training_does_not_start_over(make_trainer, finished) -> None:
    trainer = make_trainer(start_from="nnUNetTrainerPlain__nnUNetPlans__2d", snapshot_interval=1)
    trainer.run_training()
    weights = [p.detach().clone() for p in trainer.network.parameters()]
    resumed = make_trainer(start_from="nnUNetTrainerPlain__nnUNetPlans__2d", resume=True)
    resumed.load_checkpoint(str(Path(trainer.output_folder) / "checkpoint_final.pth"))
    resumed.on_train_start()
    assert all(torch.equal(a, b) for a, b in zip(weights, resumed.network.parameters(), strict=True))


def test_missing_start_names_the_places_tried(make_trainer) -> None:
    trainer = make_trainer(start_from="nnUNetTrainer__nnUNetPlans__2d")
    with pytest.raises(FileNotFoundError, match=r"Dataset9.._Phantom/nnUNetTrainer__nnUNetPlans__2d/fold_0"):
        trainer.on_train_start()
    assert trainer.dataloader_train is None  # nothing was begun


def test_another_network_is_refused(make_trainer, finished) -> None:
    trainer = make_trainer("3d_fullres")
    trainer.initialize()
    with pytest.raises(ValueError, match="3d_fullres"):
        load_weights(trainer, resolve_start("nnUNetTrainerPlain__nnUNetPlans__2d", trainer))


def test_a_file_that_is_no_checkpoint_is_refused(make_trainer, tmp_path: Path) -> None:
    file = tmp_path / "other.pth"
    torch.save({"a": 1}, file)
    trainer = make_trainer(start_from=str(file))
    trainer.initialize()
    with pytest.raises(ValueError, match=r"other\.pth"):
        load_weights(trainer, resolve_start(str(file), trainer))
