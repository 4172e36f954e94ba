"""Opening results folders: wherever they lie, whoever trained them, and nothing that would run code."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor
from nnunetv2.run import run_training
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer
from nnunetv2.utilities.get_network_from_plans import get_network_from_plans

from nnunet_ima.inference import model as model_module
from nnunet_ima.inference.model import open_model

CHECKPOINT = "fold_0/checkpoint_final.pth"


@pytest.fixture
def folder(trained_model: Path, tmp_path: Path) -> Path:
    """A stock model's folder under another name, outside nnU-Net's folders."""
    return Path(shutil.copytree(trained_model, tmp_path / "moved and renamed"))


def logits_of_nnunet(folder: Path, x: torch.Tensor, folds: tuple[str, ...]) -> torch.Tensor:
    """What nnU-Net predicts that opens the folder itself."""
    theirs = nnUNetPredictor(device=torch.device("cpu"), perform_everything_on_device=False, allow_tqdm=False)
    theirs.initialize_from_trained_model_folder(str(folder), folds, "checkpoint_final.pth")
    return theirs.predict_logits_from_preprocessed_data(x)


def change(folder: Path, **entries: Any) -> None:
    """Change entries of a checkpoint."""
    checkpoint = torch.load(folder / CHECKPOINT, weights_only=False)
    torch.save(checkpoint | entries, folder / CHECKPOINT)


def add_fold(folder: Path, fold: str, factor: float = 0.9) -> None:
    shutil.copytree(folder / "fold_0", folder / f"fold_{fold}")
    file = folder / f"fold_{fold}" / "checkpoint_final.pth"
    checkpoint = torch.load(file, weights_only=False)
    checkpoint["network_weights"] = {key: factor * value for key, value in checkpoint["network_weights"].items()}
    torch.save(checkpoint, file)


@pytest.mark.parametrize("folds", [("0",), ("0", "1")])
def test_logits_are_those_of_nnunets_predictor(folder: Path, folds: tuple[str, ...]) -> None:
    add_fold(folder, "1")
    model = open_model(folder, folds)
    assert (model.folds, model.trainer, model.configuration_name) == (folds, "nnUNetTrainer", "2d")
    x = torch.randn(1, 3, 40, 32, generator=torch.Generator().manual_seed(0))
    expected = logits_of_nnunet(folder, x, folds)
    assert torch.equal(model.predictor().predict_logits_from_preprocessed_data(x), expected)
    assert model.mirror_axes == (0, 1)
    assert all(not weight.requires_grad for network in model.networks for weight in network.parameters())
    assert not any(network.training for network in model.networks)


@pytest.mark.parametrize(
    ("kind", "heads"),
    [
        ({"configuration": "3d_fullres", "folds": ("0", "1")}, 3),
        ({"configuration": "3d_fullres", "channels": 2, "folds": ("all",)}, 3),
        ({"channels": 2, "network": "ResidualEncoderUNet"}, 3),
        ({"regions": True, "ignore": True}, 2),
        ({"ignore": True}, 3),
    ],
)
def test_every_kind_of_model_gives_nnunets_logits(
    make_folder: Callable[..., Path], kind: dict[str, Any], heads: int
) -> None:
    folder = make_folder(**kind)
    model = open_model(folder)
    assert model.folds == kind.get("folds", ("0",))
    assert model.channels == kind.get("channels", 1)
    assert model.labels.regions == kind.get("regions", False)
    assert model.labels.ignore == (3 if kind.get("ignore") else None)
    assert model.mirror_axes == ((0, 1, 2) if kind.get("configuration") else (0, 1))
    assert type(model.networks[0]).__name__ == kind.get("network", "PlainConvUNet")
    x = torch.randn(model.channels, 16, 36, 32, generator=torch.Generator().manual_seed(0))
    found = model.predictor().predict_logits_from_preprocessed_data(x)
    assert torch.equal(found, logits_of_nnunet(folder, x, model.folds))
    assert len(found) == heads
    foreground = (found > 0).any(0) if model.labels.regions else found.argmax(0) > 0
    assert 0.01 < foreground.float().mean() < 0.99


def test_training_by_stock_nnunet_moved_out_of_its_folders(
    phantom: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What nnU-Net itself writes into a checkpoint is opened without running any of it."""
    monkeypatch.setenv("nnUNet_results", str(tmp_path / "results"))
    original = run_training.get_trainer_from_args

    def short(*args: Any, **kwargs: Any) -> Any:
        trainer = original(*args, **kwargs)
        trainer.num_epochs, trainer.num_iterations_per_epoch, trainer.num_val_iterations_per_epoch = 2, 2, 1
        return trainer

    monkeypatch.setattr(run_training, "get_trainer_from_args", short)
    monkeypatch.setattr(nnUNetTrainer, "perform_actual_validation", lambda *_: None)  # it starts processes
    run_training.run_training(phantom.name, "2d_cpu", 0, device=torch.device("cpu"))
    (trained,) = (tmp_path / "results" / phantom.name).iterdir()
    folder = Path(shutil.move(trained, tmp_path / "from a colleague"))
    shutil.rmtree(tmp_path / "results")
    monkeypatch.delenv("nnUNet_results")
    written = torch.serialization.get_unsafe_globals_in_checkpoint(folder / CHECKPOINT)
    assert "numpy.dtype" in written  # which PyTorch alone would refuse
    for checkpoint in ("checkpoint_final.pth", "checkpoint_best.pth"):
        assert open_model(folder, checkpoint=checkpoint).configuration_name == "2d_cpu"
    x = torch.randn(1, 2, 40, 32, generator=torch.Generator().manual_seed(0))
    found = open_model(folder).predictor().predict_logits_from_preprocessed_data(x)
    assert torch.equal(found, logits_of_nnunet(folder, x, ("0",)))


def test_prediction_leaves_the_attacked_networks_alone(folder: Path) -> None:
    """nnU-Net's predictor loads the weights of one fold after the other into its network."""
    add_fold(folder, "1")
    model = open_model(folder)
    x = torch.randn(2, 1, 32, 32, generator=torch.Generator().manual_seed(0))
    before = [network(x) for network in model.networks]
    model.predictor().predict_logits_from_preprocessed_data(x.transpose(0, 1))
    assert all(torch.equal(network(x), logits) for network, logits in zip(model.networks, before, strict=True))
    assert not torch.equal(before[0], before[1])


def test_all_folds_by_default(folder: Path) -> None:
    add_fold(folder, "3")
    add_fold(folder, "all")
    assert open_model(folder).folds == ("0", "3")
    assert open_model(folder, ["all"]).folds == ("all",)


def test_a_snapshot_is_named_by_its_place_in_the_fold(folder: Path) -> None:
    snapshots = folder / "fold_0" / "snapshots"
    snapshots.mkdir()
    shutil.copy(folder / "fold_0" / "checkpoint_final.pth", snapshots / "epoch_0005.pth")
    model = open_model(folder, None, "snapshots/epoch_0005.pth")
    assert model.folds == ("0",)
    assert model.checkpoints == (snapshots / "epoch_0005.pth",)


def test_missing_fold_names_what_there_is(folder: Path) -> None:
    with pytest.raises(
        FileNotFoundError, match=r"fold_4/checkpoint_final\.pth does not exist.*fold_0/checkpoint_final"
    ):
        open_model(folder, ["0", "4"])


@pytest.mark.parametrize("name", ["plans.json", "dataset.json"])
def test_missing_or_damaged_json(folder: Path, name: str) -> None:
    (folder / name).write_text("{")
    with pytest.raises(ValueError, match=f"{name} is damaged"):
        open_model(folder)
    (folder / name).unlink()
    with pytest.raises(FileNotFoundError, match=f"{name} is missing"):
        open_model(folder)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("plans.json", []),
        ("plans.json", "plans"),
        ("plans.json", {}),
        ("plans.json", {"configurations": []}),
        ("plans.json", {"configurations": {"2d": {"architecture": {}}}}),
        ("dataset.json", []),
        ("dataset.json", {}),
        ("dataset.json", {"labels": {"background": 1}, "channel_names": {"0": "MRI"}}),
    ],
)
def test_json_that_is_not_nnunets_is_named(folder: Path, name: str, content: Any) -> None:
    (folder / name).write_text(json.dumps(content))
    with pytest.raises(ValueError, match=name) as caught:
        open_model(folder)
    assert str(folder) in str(caught.value)


def test_plans_that_describe_no_possible_network(folder: Path) -> None:
    edit_architecture(folder, lambda architecture: architecture["arch_kwargs"].update(features_per_stage=[8]))
    with pytest.raises(ValueError, match=r"no network can be built from plans\.json .*features_per_stage"):
        open_model(folder)


def test_folder_that_holds_no_model(tmp_path: Path, folder: Path) -> None:
    for wrong in (tmp_path / "nowhere", folder / "fold_0"):
        with pytest.raises(FileNotFoundError, match="is no results folder of nnU-Net"):
            open_model(wrong)


def test_missing_checkpoint_names_what_there_is(folder: Path) -> None:
    with pytest.raises(
        FileNotFoundError,
        match=r"checkpoint_best\.pth does not exist; .* holds fold_0/checkpoint_final\.pth; choose with",
    ):
        open_model(folder, checkpoint="checkpoint_best.pth")
    (folder / CHECKPOINT).unlink()
    with pytest.raises(FileNotFoundError, match="holds no checkpoint"):
        open_model(folder)


@pytest.mark.parametrize("size", [0, 10, 5000])
def test_truncated_checkpoint(folder: Path, size: int) -> None:
    file = folder / CHECKPOINT
    file.write_bytes(file.read_bytes()[:size])
    with pytest.raises(ValueError, match=r"checkpoint_final\.pth is damaged"):
        open_model(folder)


def test_file_that_is_no_checkpoint_of_nnunet(folder: Path) -> None:
    torch.save({"state_dict": {}}, folder / CHECKPOINT)
    with pytest.raises(ValueError, match="was not written by nnU-Net: it lacks init_args, network_weights"):
        open_model(folder)


@pytest.mark.parametrize("entries", [{"init_args": None}, {"init_args": {}}, {"network_weights": None}])
def test_checkpoint_with_damaged_entries(folder: Path, entries: dict[str, Any]) -> None:
    change(folder, **entries)
    with pytest.raises(ValueError, match=r"fold_0/checkpoint_final\.pth"):
        open_model(folder)


class Evil:
    """Makes a file when it is unpickled."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.marker),)


def test_checkpoint_that_would_run_code(folder: Path, tmp_path: Path) -> None:
    change(folder, logging=Evil(tmp_path / "marker"))
    with pytest.raises(ValueError, match=r"would run code .*mkdir.*--trust-checkpoint"):
        open_model(folder)
    assert not (tmp_path / "marker").exists()
    open_model(folder, trust_checkpoint=True)
    assert (tmp_path / "marker").exists()


def test_checkpoint_in_the_old_format_that_would_run_code(folder: Path, tmp_path: Path) -> None:
    checkpoint = torch.load(folder / CHECKPOINT, weights_only=False) | {"logging": Evil(tmp_path / "marker")}
    torch.save(checkpoint, folder / CHECKPOINT, _use_new_zipfile_serialization=False)
    with pytest.raises(ValueError, match=r"would run code .*\(\w+\.mkdir\).*--trust-checkpoint"):
        open_model(folder)
    assert not (tmp_path / "marker").exists()


def edit_architecture(folder: Path, edit: Callable[[dict[str, Any]], Any]) -> None:
    plans = json.loads((folder / "plans.json").read_text())
    edit(plans["configurations"]["2d"]["architecture"])
    (folder / "plans.json").write_text(json.dumps(plans))


def run_code(architecture: dict[str, Any], marker: Path) -> None:
    """nnU-Net calls what plans name as nonlinearity, with the options that they give."""
    architecture["arch_kwargs"] |= {"nonlin": "os.mkdir", "nonlin_kwargs": {"path": str(marker)}}


def test_plans_that_would_run_code(folder: Path, tmp_path: Path) -> None:
    edit_architecture(folder, lambda architecture: run_code(architecture, tmp_path / "marker"))
    with pytest.raises(ValueError, match=r"plans\.json names os\.mkdir, which is no part of a network"):
        open_model(folder)
    assert not (tmp_path / "marker").exists()
    with pytest.raises(ValueError, match="no network can be built"):
        open_model(folder, trust_checkpoint=True)
    assert (tmp_path / "marker").exists()  # or this test would prove nothing


def test_function_in_place_of_the_network_is_refused(folder: Path) -> None:
    edit_architecture(folder, lambda architecture: architecture.update(network_class_name="subprocess.run"))
    with pytest.raises(ValueError, match=r"names subprocess\.run, an unknown network"):
        open_model(folder)


def test_numpy_numbers_in_the_log_are_harmless(folder: Path) -> None:
    """nnU-Net's log holds them."""
    change(
        folder, logging={"dice": [np.float32(0.5), np.float64(0.25), np.int64(3), np.zeros(3)]}, _best_ema=np.float64(1)
    )
    open_model(folder)


def test_trainer_that_is_not_installed(folder: Path) -> None:
    """The network is nnU-Net's own, and plans and weights are enough."""
    change(folder, trainer_name="nnUNetTrainerOfAStranger")
    model = open_model(folder)
    assert model.trainer == "nnUNetTrainerOfAStranger"
    x = torch.randn(2, 1, 32, 32)
    change(folder, trainer_name="nnUNetTrainer")
    assert torch.equal(model.networks[0](x), open_model(folder).networks[0](x))


def test_trainer_with_a_network_of_its_own_that_is_not_installed(folder: Path) -> None:
    weights = torch.load(folder / CHECKPOINT, weights_only=False)["network_weights"]
    change(folder, trainer_name="nnUNetTrainerOfAStranger", network_weights={"own." + k: v for k, v in weights.items()})
    with pytest.raises(ValueError, match=r"trained by nnUNetTrainerOfAStranger, which is not installed.*Install"):
        open_model(folder)


def test_trainer_written_for_an_earlier_nnunet(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """nnU-Net 2.8 still opens models of trainers that build their network from the plans' entries."""

    class Old(nnUNetTrainer):
        @staticmethod
        def build_network_architecture(
            architecture_class_name: str,
            arch_init_kwargs: dict[str, Any],
            arch_init_kwargs_req_import: list[str],
            num_input_channels: int,
            num_output_channels: int,
            enable_deep_supervision: bool = True,
        ) -> torch.nn.Module:
            return get_network_from_plans(
                architecture_class_name,
                arch_init_kwargs,
                arch_init_kwargs_req_import,
                num_input_channels,
                num_output_channels,
                deep_supervision=enable_deep_supervision,
            )

    x = torch.randn(2, 1, 32, 32)
    expected = open_model(folder).networks[0](x)
    monkeypatch.setattr(model_module, "recursive_find_trainer_class_by_name", lambda _: Old)
    assert torch.equal(open_model(folder).networks[0](x), expected)


def test_weights_of_another_network(folder: Path) -> None:
    change(folder, network_weights={})
    with pytest.raises(ValueError, match="do not fit the network of its plans"):
        open_model(folder)


def test_unknown_configuration(folder: Path) -> None:
    change(folder, init_args={"configuration": "4d"})
    with pytest.raises(ValueError, match=r"does not fit .*plans\.json"):
        open_model(folder)


def test_second_stage_of_a_cascade_is_refused(folder: Path) -> None:
    plans = json.loads((folder / "plans.json").read_text())
    plans["configurations"]["2d"]["previous_stage"] = "3d_lowres"
    (folder / "plans.json").write_text(json.dumps(plans))
    with pytest.raises(ValueError, match=r"second stage of a cascade.*3d_lowres"):
        open_model(folder)
