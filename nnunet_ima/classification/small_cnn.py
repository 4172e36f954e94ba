"""A small convolutional network for pictures such as Fashion-MNIST's."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

FEATURES, HIDDEN, POOLED = (32, 64), 128, 7


class SmallCNN(nn.Module):
    """Logits (B, classes) of images (B, C, H, W): two 3×3 convolutions, each with 2×2 max-pooling, two linear layers.

    It follows, as far as that is known, the small network of the Fashion-MNIST experiments in the paper's supplement:
    of the usual kind for MNIST in the literature on adversarial training. Its widths are our choice. It has no
    normalisation, so that an image's logits are the same in training and evaluation mode.

    Args:
        classes: number of logits.
        channels: of the images.
        dropout: before the last layer.
    """

    def __init__(self, classes: int, channels: int = 1, dropout: float = 0.0) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, FEATURES[0], 3, padding=1)
        self.conv2 = nn.Conv2d(FEATURES[0], FEATURES[1], 3, padding=1)
        self.hidden = nn.Linear(FEATURES[1] * POOLED**2, HIDDEN)
        self.dropout = nn.Dropout(dropout)
        self.linear = nn.Linear(HIDDEN, classes)

    def forward(self, x: Tensor) -> Tensor:
        """Return the logits (B, classes) of images (B, C, H, W).

        Raises:
            ValueError: the images have fewer than 4 pixels along an axis.
        """
        if min(x.shape[2:]) < 4:
            raise ValueError(f"it halves images twice, so they need at least 4×4 pixels, got {tuple(x.shape[2:])}")
        maps = x
        for layer in (self.conv1, self.conv2):
            maps = F.max_pool2d(F.relu(layer(maps)), 2)
        if tuple(maps.shape[2:]) != (POOLED, POOLED):  # what 28×28 pixels leave; other sizes are brought to it
            maps = F.adaptive_avg_pool2d(maps, POOLED)
        logits: Tensor = self.linear(self.dropout(F.relu(self.hidden(maps.flatten(1)))))
        return logits
