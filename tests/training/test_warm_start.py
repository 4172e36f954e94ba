from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
import torch

from nnunet_ima.training.trainers import nnUNetTrainerPlain
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


class Evil:
    """Makes a folder when it is unpickled."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.marker),)


def test_a_checkpoint_with_code_is_refused(make_trainer, tmp_path: Path) -> None:
    trainer = make_trainer()
    trainer.initialize()
    before = {key: value.clone() for key, value in trainer.network.state_dict().items()}
    content = {"network_weights": {key: value + 1 for key, value in before.items()}}
    torch.save(content | {"logging": Evil(tmp_path / "marker")}, tmp_path / "evil.pth")
    with pytest.raises(ValueError, match=r"evil\.pth would run code .*mkdir.*torch\.save") as caught:
        load_weights(trainer, tmp_path / "evil.pth")
    assert "--trust-checkpoint" not in str(caught.value)
    assert not (tmp_path / "marker").exists()
    # the way out that the message names
    weights = torch.load(tmp_path / "evil.pth", weights_only=False)["network_weights"]
    assert (tmp_path / "marker").exists()  # the trap works
    torch.save({"network_weights": weights}, tmp_path / "weights.pth")
    load_weights(trainer, tmp_path / "weights.pth")
    assert all(torch.equal(value, before[key] + 1) for key, value in trainer.network.state_dict().items())


def test_damaged_checkpoints_and_weights_are_refused(make_trainer, tmp_path: Path) -> None:
    trainer = make_trainer()
    trainer.initialize()
    before = {key: value.clone() for key, value in trainer.network.state_dict().items()}
    file = tmp_path / "start.pth"
    first = next(iter(before))
    torch.save({"network_weights": before | {first: before[first] * float("nan")}}, file)
    with pytest.raises(ValueError, match=rf"start\.pth holds weights that are not finite: .* of '{first}'"):
        load_weights(trainer, file)
    torch.save({"network_weights": [1]}, file)
    with pytest.raises(ValueError, match=r"start\.pth"):
        load_weights(trainer, file)
    torch.save({"network_weights": {key: value + 1 for key, value in before.items()}}, file)
    content = bytearray(file.read_bytes())
    content[len(content) // 2 : len(content) // 2 + 64] = bytes(64)
    file.write_bytes(content)
    with pytest.raises(ValueError, match=r"start\.pth is damaged"):
        load_weights(trainer, file)
    with pytest.raises(FileNotFoundError, match=r"nowhere\.pth is missing"):
        load_weights(trainer, tmp_path / "nowhere.pth")
    assert all(torch.equal(value, before[key]) for key, value in trainer.network.state_dict().items())
