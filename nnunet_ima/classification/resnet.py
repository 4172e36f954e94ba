"""The paper's classifier of CT slices: ResNet-18 with group normalisation, from nnU-Net's building blocks."""

from __future__ import annotations

from dynamic_network_architectures.building_blocks.residual_encoders import ResidualEncoder
from dynamic_network_architectures.building_blocks.simple_conv_blocks import ConvDropoutNormReLU
from torch import nn

from nnunet_ima.classification.head import EncoderClassifier


def group_norm(channels: int, groups: int | None = None) -> nn.GroupNorm:
    """Make a group normalisation as nnU-Net's blocks ask for one: channels first.

    Args:
        channels: of the map.
        groups: that share a mean and a variance; None: each channel has its own.
    """
    return nn.GroupNorm(groups or channels, channels)


class ResNet18Encoder(ResidualEncoder):  # type: ignore[misc]  # untyped
    """The convolutions of ResNet-18 (He et al. 2016): 64 to 512 features, 1/32 of the image's size.

    One thing differs from the original: where a block halves the size, its skip is the average of 2×2 positions, then a
    1×1 convolution, not a 1×1 convolution of every second position (ResNet-D, He et al. 2019). So does
    dynamic_network_architectures build its blocks; the weights are as many, and sizes must be multiples of 32.

    Args:
        channels: of the images.
        groups: of the normalisation; None: one channel each.
    """

    def __init__(self, channels: int = 1, groups: int | None = None) -> None:
        norm, relu = {"norm_op": group_norm, "norm_op_kwargs": {"groups": groups}}, {"inplace": True}
        super().__init__(
            input_channels=64,
            n_stages=4,
            features_per_stage=(64, 128, 256, 512),
            conv_op=nn.Conv2d,
            kernel_sizes=3,
            strides=(1, 2, 2, 2),
            n_blocks_per_stage=2,
            nonlin=nn.ReLU,
            nonlin_kwargs=relu,
            disable_default_stem=True,
            **norm,
        )
        self.stem = nn.Sequential(
            ConvDropoutNormReLU(nn.Conv2d, channels, 64, 7, 2, nonlin=nn.ReLU, nonlin_kwargs=relu, **norm),
            nn.MaxPool2d(kernel_size=3, stride=2, padding=1),
        )
        self.strides[0] = [4, 4]  # the stem's, which this one, unlike the default stem, has
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")


def resnet18(classes: int = 2, channels: int = 1, groups: int | None = None, dropout: float = 0.0) -> EncoderClassifier:
    """Build the ResNet-18 with which Ma & Liang (2023) classified CT slices of 224×224; seed PyTorch before.

    The paper speaks of group normalisation; its published code (COVID19a_CNN.py, "resnet18a2") gives every channel a
    group of its own, as is the default here, and ends in two logits: 11 171 266 weights, as many as the original has.
    That code shifts intensities from [0, 1] to [−1, 1] first, which is left to the data here.

    Args:
        classes: number of logits.
        channels: of the images.
        groups: of each normalisation, a divisor of 64, for example 32; None: one channel each.
        dropout: on the pooled features; the paper has none.

    Raises:
        ValueError: `groups` does not divide 64, or a number is out of range.
    """
    if channels < 1 or (groups is not None and (groups < 1 or 64 % groups)):
        msg = f"channels must be at least 1 and groups a divisor of 64, got {channels} and {groups}"
        raise ValueError(msg)
    return EncoderClassifier(ResNet18Encoder(channels, groups), classes, dropout)
