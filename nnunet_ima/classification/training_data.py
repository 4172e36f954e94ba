"""What a training sees of a data set, and in which order."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from nnunet_ima.classification.image_set import ImageSet
from nnunet_ima.classification.splits import Splits


@dataclass(frozen=True)
class TrainingData:
    """Images and classes of the splits that a training sees.

    Attributes:
        x: training images (N, C, H, W) in [0, 1].
        y: their classes (N,).
        ids: their names.
        x_validation: validation images (M, C, H, W).
        y_validation: their classes (M,).
        classes: names of the classes.
        digest: of pixels, classes and splits; a training goes on with the same data only.
    """

    x: Tensor
    y: Tensor
    ids: tuple[str, ...]
    x_validation: Tensor
    y_validation: Tensor
    classes: tuple[str, ...]
    digest: str

    @property
    def channels(self) -> int:
        """Channels of the images."""
        return self.x.shape[1]

    @classmethod
    def of(cls, data: ImageSet, splits: Splits) -> TrainingData:
        """Take the training and validation images of a data set."""
        places = splits.indices(data)
        train, validation = places["train"], places["validation"]
        described = [
            [data.ids[i], data.digests[i], int(data.labels[i])] for i in (*train.tolist(), *validation.tolist())
        ]
        return cls(
            data.images[train],
            data.labels[train],
            tuple(data.ids[i] for i in train.tolist()),
            data.images[validation],
            data.labels[validation],
            data.classes,
            hashlib.sha256(json.dumps([len(train), data.classes, described]).encode()).hexdigest(),
        )


def shuffled_batches(size: int, batch: int, generator: torch.Generator) -> Iterator[Tensor]:
    """Places (B,) of the images of each batch of an epoch, in random order; the last one may be smaller."""
    yield from torch.randperm(size, generator=generator).split(batch)
