"""Images with their classes in one tensor, whatever they were read from."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

SPLITS = ("train", "validation", "test")


@dataclass(frozen=True)
class ImageSet:
    """All images of a data set.

    Attributes:
        source: folder or CSV file that they come from.
        images: float32 (N, C, H, W) in [0, 1], C = 1 (grey) or 3 (RGB).
        labels: long (N,), indices of `classes`.
        classes: names of the classes.
        ids: names of the files relative to the source (a CSV's folder), with "/".
        digests: digests of the decoded pixels, before resizing; equal pixels have equal ones.
        patients: whom the images show, or None if that is not known.
        splits: "train", "validation" or "test" of each image as the source has it, or None.
        validation_share: of the images that the source calls train, how many are to be drawn for validation since it
            calls none so; None: none.
        skipped: what is wrong with the files that were left out.
        notes: what a reader of results should know about the data.
    """

    source: Path
    images: Tensor
    labels: Tensor
    classes: tuple[str, ...]
    ids: tuple[str, ...]
    digests: tuple[str, ...]
    patients: tuple[str, ...] | None = None
    splits: tuple[str, ...] | None = None
    validation_share: float | None = None
    skipped: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.ids)

    def class_counts(self) -> dict[str, int]:
        """Return the number of images of each class."""
        return dict(zip(self.classes, torch.bincount(self.labels, minlength=len(self.classes)).tolist(), strict=True))
