"""A classifier of images: an encoder of nnU-Net, global average pooling, one linear layer."""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dynamic_network_architectures.architectures.unet import PlainConvUNet, ResidualEncoderUNet
from dynamic_network_architectures.building_blocks.plain_conv_encoder import PlainConvEncoder
from dynamic_network_architectures.building_blocks.residual_encoders import ResidualEncoder
from nnunetv2.utilities.get_network_from_plans import get_network_from_plans
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd
from torch.nn.modules.instancenorm import _InstanceNorm

from nnunet_ima.inference.model import open_model

_NETWORKS = {
    network.__name__: f"{network.__module__}.{network.__name__}" for network in (PlainConvUNet, ResidualEncoderUNet)
}


class EncoderClassifier(nn.Module):
    """Logits (B, classes) of images (B, C, *spatial): encoder, mean of the deepest stage, dropout, linear layer.

    Instance normalisation takes the mean out of every channel, so that after it the pooled values tell the shape of a
    channel's distribution, not its level: it needs more than a handful of positions at the deepest stage.

    Args:
        encoder: becomes the classifier's own and returns its deepest stage only from now on.
        classes: number of logits, at least 2.
        dropout: probability, on the pooled features.
        frozen: keep the encoder's weights, and the encoder in evaluation mode whatever mode the classifier is in.
            Gradients reach the images either way.

    Attributes:
        channels: channels that an image must have.
        dimensions: spatial axes that an image must have.
        downsampling: positions of the image per position of the deepest stage, along each axis.

    Raises:
        ValueError: the encoder is none of nnU-Net's convolutional ones, or there are fewer than 2 classes.
    """

    def __init__(self, encoder: nn.Module, classes: int, dropout: float = 0.0, frozen: bool = False) -> None:
        super().__init__()
        if not isinstance(encoder, PlainConvEncoder | ResidualEncoder):
            msg = f"a classifier needs a PlainConvEncoder or a ResidualEncoder, got {type(encoder).__name__}"
            raise ValueError(msg)
        if classes < 2:
            msg = f"a classifier needs at least 2 classes, one logit each, got {classes}"
            raise ValueError(msg)
        encoder.return_skips = False
        self.encoder = encoder.requires_grad_(not frozen)
        self.frozen = frozen
        self.dropout = nn.Dropout(dropout)
        self.linear = nn.Linear(encoder.output_channels[-1], classes)
        self.channels = _input_channels(encoder)
        self.downsampling = tuple(math.prod(axis) for axis in zip(*encoder.strides, strict=True))
        self.dimensions = len(self.downsampling)
        self.train()

    @classmethod
    def from_architecture(
        cls, architecture: Mapping[str, Any], channels: int, classes: int, dropout: float = 0.0
    ) -> EncoderClassifier:
        """Build one with fresh weights, drawn with PyTorch's global seed.

        Args:
            architecture: of a configuration in nnU-Net's plans: network_class_name, arch_kwargs, _kw_requires_import.
            channels: of the images.
            classes: number of logits.
            dropout: on the pooled features.

        Raises:
            ValueError: an entry is missing, or the network is neither PlainConvUNet nor ResidualEncoderUNet.
        """
        missing = {"network_class_name", "arch_kwargs", "_kw_requires_import"} - set(architecture)
        if missing:
            lacking = ", ".join(sorted(missing))
            msg = f"the architecture lacks {lacking}; take the one of a configuration in nnU-Net's plans"
            raise ValueError(msg)
        name = str(architecture["network_class_name"])
        if name.split(".")[-1] not in _NETWORKS:
            msg = f"no classifier can be made of {name}; the architecture must be one of {', '.join(_NETWORKS)}"
            raise ValueError(msg)
        if channels < 1:
            msg = f"images need at least one channel, got {channels}"
            raise ValueError(msg)
        network = get_network_from_plans(
            _NETWORKS[name.split(".")[-1]],
            architecture["arch_kwargs"],
            architecture["_kw_requires_import"],
            channels,
            classes,
            deep_supervision=False,
        )
        return cls(network.encoder, classes, dropout)

    @classmethod
    def from_trained(
        cls,
        folder: Path,
        channels: int,
        classes: int,
        dropout: float = 0.0,
        frozen: bool = False,
        fold: str = "0",
        checkpoint: str = "checkpoint_final.pth",
        trust_checkpoint: bool = False,
    ) -> EncoderClassifier:
        """Build one on a copy of a trained segmentation model's encoder; its linear layer comes from the global seed.

        Args:
            folder: results folder of nnU-Net, see `inference.model.open_model`.
            channels: of the images.
            classes: number of logits.
            dropout: on the pooled features.
            frozen: train the linear layer only.
            fold: whose weights, "0" to "4" or "all".
            checkpoint: file in the fold's folder.
            trust_checkpoint: let the checkpoint run code of its own while it is loaded.

        Raises:
            FileNotFoundError: a file is missing.
            ValueError: the model cannot be opened, has no encoder of a known kind or other input channels.
        """
        model = open_model(folder, [fold], checkpoint, trust_checkpoint=trust_checkpoint)
        encoder = getattr(model.networks[0], "encoder", None)
        if not isinstance(encoder, PlainConvEncoder | ResidualEncoder):
            msg = (
                f"{folder} holds a {type(model.networks[0]).__name__}, which has no encoder that a classifier could be "
                f"made of; take a model whose network is one of {', '.join(_NETWORKS)}"
            )
            raise ValueError(msg)
        if _input_channels(encoder) != channels:
            msg = (
                f"the images have {channels} channels, but the encoder in {folder} was trained with "
                f"{_input_channels(encoder)}; take a model with as many, or fresh weights"
            )
            raise ValueError(msg)
        return cls(copy.deepcopy(encoder), classes, dropout, frozen)

    def train(self, mode: bool = True) -> EncoderClassifier:
        """Set the mode of all but a frozen encoder, which stays in evaluation mode."""
        super().train(mode)
        if self.frozen:
            self.encoder.eval()
        return self

    def features(self, x: Tensor) -> Tensor:
        """Return the means (B, F) of the deepest stage of images (B, C, *spatial).

        Raises:
            ValueError: the images have other channels or axes than the encoder expects, or a size it cannot work on.
        """
        self._check(tuple(x.shape))
        deepest: Tensor = self.encoder(x)
        return deepest.flatten(2).mean(2)

    def forward(self, x: Tensor) -> Tensor:
        """Return the logits (B, classes) of images (B, C, *spatial)."""
        logits: Tensor = self.linear(self.dropout(self.features(x)))
        return logits

    def _check(self, shape: tuple[int, ...]) -> None:
        if len(shape) != self.dimensions + 2 or shape[1] != self.channels:
            axes = ", ".join(("z", "y", "x")[-self.dimensions :])
            msg = (
                f"the encoder takes images (B, {self.channels}, {axes}), that is {self.channels} channels, got {shape}"
            )
            raise ValueError(msg)
        sizes = tuple(zip(shape[2:], self.downsampling, strict=True))
        # A residual block's convolution rounds odd sizes up, the pooling on its skip rounds them down.
        if isinstance(self.encoder, ResidualEncoder) and any(size % step for size, step in sizes):
            msg = f"the size of the images must be a multiple of {self.downsampling}, got {shape[2:]}; pad or crop them"
            raise ValueError(msg)
        positions = math.prod(-(-size // step) for size, step in sizes)
        # Two normalised values are always −1 and 1, one is always 0: all images would look the same.
        if positions < 3 and any(map(_normalises_each_channel, self.encoder.modules())):
            msg = (
                f"images of size {shape[2:]} leave {positions} position(s) at the deepest stage, which the "
                "normalisation of each channel makes the same for all images; use larger images or fewer stages"
            )
            raise ValueError(msg)


def small_architecture(residual: bool = False, stride: int = 1, stem: int | None = None) -> dict[str, Any]:
    """Describe an encoder for a CPU as nnU-Net's plans do: 2D, four stages of 16 to 128 features.

    Args:
        residual: one residual block per stage instead of two plain convolutions. Its skips carry levels past the
            normalisation; the plain one, from scratch, wants a higher learning rate (AdamW: 3e-3 rather than 1e-3).
        stride: of the first stage; 2 makes a pass on a CPU several times cheaper.
        stem: features of the residual one's first convolution, which has no stride; None: as many as the first stage.
    """
    features = [16, 32, 64, 128]
    depth: dict[str, Any] = {"n_conv_per_stage": [2] * len(features)}
    if residual:
        depth = {"n_blocks_per_stage": [1] * len(features), "stem_channels": stem}
    return {
        "network_class_name": _NETWORKS["ResidualEncoderUNet" if residual else "PlainConvUNet"],
        "arch_kwargs": {
            "n_stages": len(features),
            "features_per_stage": features,
            "conv_op": "torch.nn.modules.conv.Conv2d",
            "kernel_sizes": [[3, 3]] * len(features),
            "strides": [[stride, stride], *[[2, 2]] * (len(features) - 1)],
            **depth,
            "n_conv_per_stage_decoder": [2] * (len(features) - 1),
            "conv_bias": True,
            "norm_op": "torch.nn.modules.instancenorm.InstanceNorm2d",
            "norm_op_kwargs": {"eps": 1e-5, "affine": True},
            "dropout_op": None,
            "dropout_op_kwargs": None,
            "nonlin": "torch.nn.LeakyReLU",
            "nonlin_kwargs": {"inplace": True},
        },
        "_kw_requires_import": ["conv_op", "norm_op", "dropout_op", "nonlin"],
    }


def _input_channels(encoder: Any) -> int:
    """Return the channels that the encoder's first convolution takes; a stem comes before all stages."""
    first = getattr(encoder, "stem", None) or encoder.stages
    return next(module.in_channels for module in first.modules() if isinstance(module, _ConvNd))


def _normalises_each_channel(module: nn.Module) -> bool:
    alone = isinstance(module, nn.GroupNorm) and module.num_groups == module.num_channels
    return alone or (isinstance(module, _InstanceNorm) and not module.track_running_stats)
