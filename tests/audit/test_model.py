"""Opening results folders: wherever they lie, whoever trained them, and nothing that would run code."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor

from nnunet_ima.audit.model import open_model

CHECKPOINT = "fold_0/checkpoint_final.pth"


@pytest.fixture
def folder(trained_model: Path, tmp_path: Path) -> Path:
    """A stock model's folder under another name, outside nnU-Net's folders."""
    return Path(shutil.copytree(trained_model, tmp_path / "moved and renamed"))


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
    theirs = nnUNetPredictor(device=torch.device("cpu"), perform_everything_on_device=False, allow_tqdm=False)
    theirs.initialize_from_trained_model_folder(str(folder), folds, "checkpoint_final.pth")
    x = torch.randn(1, 3, 40, 32, generator=torch.Generator().manual_seed(0))
    expected = theirs.predict_logits_from_preprocessed_data(x)
    assert torch.equal(model.predictor().predict_logits_from_preprocessed_data(x), expected)
    assert model.mirror_axes == (0, 1)
    assert all(not weight.requires_grad for network in model.networks for weight in network.parameters())
    assert not any(network.training for network in model.networks)


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


@pytest.mark.parametrize("size", [0, 10, 5000])
def test_truncated_checkpoint(folder: Path, size: int) -> None:
    file = folder / CHECKPOINT
    file.write_bytes(file.read_bytes()[:size])
    with pytest.raises(ValueError, match=r"checkpoint_final\.pth is damaged"):
        open_model(folder)


def test_file_that_is_no_checkpoint_of_nnunet(folder: Path) -> None:
    torch.save({"state_dict": {}}, folder / CHECKPOINT)
    with pytest.raises(ValueError, match="is no checkpoint of nnU-Net: it lacks init_args, network_weights"):
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


def rebuild(folder: Path, dataset_json: dict[str, Any] | None = None, network: str | None = None) -> None:
    """Give the folder other labels or another architecture, and fresh weights that fit."""
    from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer
    from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

    plans = json.loads((folder / "plans.json").read_text())
    if network:
        architecture = plans["configurations"]["2d"]["architecture"]
        architecture["network_class_name"] = f"dynamic_network_architectures.architectures.unet.{network}"
        architecture["arch_kwargs"]["n_blocks_per_stage"] = architecture["arch_kwargs"].pop("n_conv_per_stage")
    (folder / "plans.json").write_text(json.dumps(plans))
    content = json.loads((folder / "dataset.json").read_text()) | (dataset_json or {})
    (folder / "dataset.json").write_text(json.dumps(content))
    manager = PlansManager(plans)
    heads = manager.get_label_manager(content).num_segmentation_heads
    built = nnUNetTrainer.build_network_architecture(manager, manager.get_configuration("2d"), 1, heads, True)
    change(folder, network_weights=built.state_dict())


def test_regions_and_ignore_label(folder: Path) -> None:
    labels = {"background": 0, "whole": [1, 2], "core": [2], "ignore": 3}
    rebuild(folder, {"labels": labels, "regions_class_order": [1, 2]})
    model = open_model(folder)
    assert model.labels.regions
    assert model.labels.ignore == 3
    assert model.networks[0](torch.randn(1, 1, 32, 32)).shape[1] == 2


def test_residual_encoder(folder: Path) -> None:
    rebuild(folder, network="ResidualEncoderUNet")
    assert type(open_model(folder).networks[0]).__name__ == "ResidualEncoderUNet"
