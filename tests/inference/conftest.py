"""Results folders of stock nnU-Net, with random weights: every kind of model without a training."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer
from nnunetv2.utilities.label_handling.label_handling import determine_num_input_channels
from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

MakeFolder = Callable[..., Path]
FEATURES = 4


@pytest.fixture
def make_folder(make_phantom: Callable[..., Any], tmp_path: Path) -> MakeFolder:
    """A function that writes a results folder as stock nnU-Net does, outside nnU-Net's own folders, and returns it.

    Its arguments are the configuration, folds, name of the trainer and class of the network, and those of
    PhantomSettings (channels, regions, ignore). The weights are random, and large enough for every class to be
    predicted somewhere.
    """
    made = 0

    def make(
        configuration: str = "2d",
        folds: Sequence[str] = ("0",),
        trainer_name: str = "nnUNetTrainer",
        network: str = "PlainConvUNet",
        **phantom: Any,
    ) -> Path:
        nonlocal made
        dataset = make_phantom(**phantom)
        plans = json.loads((dataset.preprocessed / "nnUNetPlans.json").read_text())
        dataset_json = json.loads((dataset.preprocessed / "dataset.json").read_text())
        architecture = plans["configurations"][configuration]["architecture"]
        architecture["network_class_name"] = f"dynamic_network_architectures.architectures.unet.{network}"
        options = architecture["arch_kwargs"]
        options["features_per_stage"] = [FEATURES] * options["n_stages"]
        if network == "ResidualEncoderUNet":
            options["n_blocks_per_stage"] = options.pop("n_conv_per_stage")
        folder, made = tmp_path / f"from a colleague {made}", made + 1
        folder.mkdir()
        (folder / "plans.json").write_text(json.dumps(plans))
        (folder / "dataset.json").write_text(json.dumps(dataset_json))
        for number, fold in enumerate(folds):
            (folder / f"fold_{fold}").mkdir()
            checkpoint = {
                "network_weights": random_weights(plans, configuration, dataset_json, seed=number),
                "optimizer_state": {"state": {}, "param_groups": [{"lr": 0.01, "params": [0]}]},
                "grad_scaler_state": None,
                "logging": {"mean_fg_dice": [np.float32(0.5)], "dice_per_class_or_region": [[np.float64(0.5)]]},
                "_best_ema": np.float64(0.5),
                "current_epoch": 1000,
                "init_args": {
                    "plans": plans,
                    "configuration": configuration,
                    "fold": fold if fold == "all" else int(fold),
                    "dataset_json": dataset_json,
                    "device": torch.device("cpu"),
                },
                "trainer_name": trainer_name,
                "inference_allowed_mirroring_axes": (0, 1, 2)[: 2 if configuration == "2d" else 3],
            }
            torch.save(checkpoint, folder / f"fold_{fold}" / "checkpoint_final.pth")
        return folder

    return make


def random_weights(plans: dict[str, Any], configuration: str, dataset_json: dict[str, Any], seed: int) -> Any:
    manager = PlansManager(plans)
    settings = manager.get_configuration(configuration)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        network = nnUNetTrainer.build_network_architecture(
            manager,
            settings,
            determine_num_input_channels(manager, settings, dataset_json),
            manager.get_label_manager(dataset_json).num_segmentation_heads,
            True,
        )
    for layer in network.decoder.seg_layers:
        layer.weight.data *= 5
    return network.state_dict()
