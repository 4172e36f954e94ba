"""Wide residual networks for pictures of 32×32 pixels (Zagoruyko & Komodakis 2016, arXiv 1605.07146)."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

GROUPS = 8
STEM = 16


class _Block(nn.Module):
    """Two 3×3 convolutions, each after its normalisation and ReLU ("pre-activation"), beside a shortcut."""

    def __init__(self, before: int, after: int, stride: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.GroupNorm(GROUPS, before), nn.GroupNorm(GROUPS, after)
        self.conv1 = nn.Conv2d(before, after, 3, stride, padding=1, bias=False)
        self.conv2 = nn.Conv2d(after, after, 3, padding=1, bias=False)
        self.shortcut = None if before == after and stride == 1 else nn.Conv2d(before, after, 1, stride, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Return (B, after, H / stride, W / stride) of (B, before, H, W)."""
        active = F.relu(self.norm1(x))
        change: Tensor = self.conv2(F.relu(self.norm2(self.conv1(active))))
        # where the shape changes, the shortcut, too, takes what is normalised, as in the authors' code
        return change + (x if self.shortcut is None else self.shortcut(active))


class WideResNet(nn.Module):
    """Logits (B, classes) of images (B, C, H, W): three stages of 16·width, 32·width and 64·width features.

    One thing differs from the original: group normalisation in the place of batch normalisation, with as many weights.
    Attacks see the network in evaluation mode, where batch normalisation would make it another one than that which
    learns; so an image's logits are the same in both, whatever else the batch holds.

    Args:
        classes: number of logits.
        channels: of the images.
        depth: number of convolutions on the way, and the linear layer: 6·n + 4.
        width: factor of the features.
        dropout: on the pooled features; the authors' stands between convolutions and is off on the data sets here.

    Raises:
        ValueError: there is no network of that depth.
    """

    def __init__(self, classes: int, channels: int = 3, depth: int = 28, width: int = 4, dropout: float = 0.0) -> None:
        super().__init__()
        if depth < 10 or (depth - 4) % 6:
            raise ValueError(f"depth must be 6·n + 4, such as 16, 22 or 28, got {depth}")
        self.stem = nn.Conv2d(channels, STEM, 3, padding=1, bias=False)
        blocks, before = [], STEM
        for stage in range(3):
            after = STEM * width * 2**stage
            for number in range((depth - 4) // 6):
                blocks.append(_Block(before, after, stride=2 if stage and not number else 1))
                before = after
        self.blocks = nn.Sequential(*blocks)
        self.norm = nn.GroupNorm(GROUPS, before)
        self.dropout = nn.Dropout(dropout)
        self.linear = nn.Linear(before, classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, x: Tensor) -> Tensor:
        """Return the logits (B, classes) of images (B, C, H, W) of any size."""
        features = F.relu(self.norm(self.blocks(self.stem(x)))).mean((2, 3))
        logits: Tensor = self.linear(self.dropout(features))
        return logits


def wide_resnet(classes: int, channels: int = 3, dropout: float = 0.0) -> WideResNet:
    """Build WRN-28-4, the paper's network for SVHN and CIFAR-10, with fresh weights; seed PyTorch before."""
    return WideResNet(classes, channels, depth=28, width=4, dropout=dropout)
