"""Small random models, and images for them: what a pipeline computes needs no training."""

from __future__ import annotations

from pathlib import Path

import torch
from nnunetv2.utilities.plans_handling.plans_handler import PlansManager
from torch import Tensor, nn

from nnunet_ima.inference.model import TrainedModel

PATCH = {"2d": (16, 12), "3d_fullres": (8, 12, 10)}


class Net(nn.Module):
    """Like a U-Net to the pipeline: convolutions and an instance norm, which looks at the whole window."""

    def __init__(self, dimensions: int, channels: int, classes: int) -> None:
        super().__init__()
        conv = (nn.Conv2d, nn.Conv3d)[dimensions - 2]
        norm = (nn.InstanceNorm2d, nn.InstanceNorm3d)[dimensions - 2]
        self.layers = nn.Sequential(
            conv(channels, 6, 3, padding=1), norm(6, affine=True), nn.LeakyReLU(), conv(6, classes, 3, padding=1)
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x)


def make_model(
    configuration: str = "3d_fullres", folds: int = 1, channels: int = 1, seed: int = 0, classes: int = 3
) -> TrainedModel:
    """A model with small random networks, and just the plans that prediction asks for."""
    torch.manual_seed(seed)
    patch = PATCH[configuration]
    plans = PlansManager(
        {
            "configurations": {configuration: {"patch_size": list(patch), "architecture": {}}},
            "label_manager": "LabelManager",
            "transpose_forward": [0, 1, 2],
        }
    )
    networks = tuple(Net(len(patch), channels, classes).eval().requires_grad_(False) for _ in range(folds))
    return TrainedModel(
        folder=Path(),
        trainer="nnUNetTrainer",
        configuration_name=configuration,
        folds=tuple(str(fold) for fold in range(folds)),
        checkpoints=(),
        networks=networks,
        plans=plans,
        configuration=plans.get_configuration(configuration),
        dataset_json={
            "labels": {"background": 0, **{f"class {number}": number for number in range(1, classes)}},
            "channel_names": {str(number): "MRI" for number in range(channels)},
        },
        mirror_axes=tuple(range(len(patch))),
        device=torch.device("cpu"),
    )


def image(shape: tuple[int, ...], seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))
