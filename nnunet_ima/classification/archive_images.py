"""A data set in its original files as images with classes: its test set stays, validation is drawn from the rest."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from nnunet_ima.classification.archives import Pictures, read_archive
from nnunet_ima.classification.image_set import ImageSet
from nnunet_ima.classification.images import resize
from nnunet_ima.datasets.checks import count

VALIDATION_SHARE = 0.1
"""Of the original training images: 6000 of Fashion-MNIST's, which tells an accuracy of 0.9 to ±0.008 (95 %)."""

CHUNK = 1024  # images that are converted at once


def from_archive(source: Path, layout: str, size: tuple[int, int], classes: Sequence[str] | None = None) -> ImageSet:
    """Read a data set in its original files, in its own colours.

    Args:
        source: folder of the files.
        layout: of `archives.FORMATS`.
        size: height and width in pixels.
        classes: names of those to read, in the order of the labels; all if None.

    Raises:
        FileNotFoundError: a file or a class is missing.
        ValueError: a file is damaged, there are fewer than 2 classes, or the images do not fit into memory.
    """
    archive = read_archive(source, layout)
    names = tuple(classes if classes is not None else archive.classes)
    if unknown := [name for name in names if name not in archive.classes]:
        raise FileNotFoundError(f"{source} has no class {', '.join(unknown)}; it has {', '.join(archive.classes)}")
    if len(names) < 2:
        msg = f"{source} has a single class ({', '.join(names)}); a classifier needs at least 2"
        raise ValueError(msg)
    parts = {"train": archive.train, "test": archive.test}
    # the label of each original class, −1 for those that are left out
    label_of = np.array([names.index(name) if name in names else -1 for name in archive.classes])
    kept = {part: np.flatnonzero(label_of[pictures.labels] >= 0) for part, pictures in parts.items()}
    number, (_, channels, *original) = sum(map(len, kept.values())), archive.train.pixels.shape
    try:
        images = torch.empty(number, channels, *size)
    except RuntimeError as error:
        msg = f"{source}: {count(number, 'image')} of {size[0]}×{size[1]} pixels do not fit into memory; lower size"
        raise ValueError(msg) from error
    begin = 0
    for part, places in kept.items():
        _convert(parts[part], places, images[begin : begin + len(places)])
        begin += len(places)
    drawn = f"{VALIDATION_SHARE:.0%} of the training images, drawn by the seed"
    notes: tuple[str, ...] = (f"{layout}: test images are the original ones, validation images are {drawn}",)
    if tuple(original) != size:
        notes += (f"images are resized from {original[0]}×{original[1]} to {size[0]}×{size[1]} pixels",)
    return ImageSet(
        source=source,
        images=images,
        labels=torch.from_numpy(
            np.concatenate([label_of[parts[part].labels[places]] for part, places in kept.items()])
        ),
        classes=names,
        ids=tuple(f"{part}/{place:05d}" for part, places in kept.items() for place in places.tolist()),
        digests=tuple(_digest(parts[part], place) for part, places in kept.items() for place in places.tolist()),
        splits=tuple(part for part, places in kept.items() for _ in places),
        validation_share=VALIDATION_SHARE,
        notes=(*notes, *archive.notes),
    )


def _convert(pictures: Pictures, places: np.ndarray[tuple[int], np.dtype[np.int64]], images: Tensor) -> None:
    """Fill images (n, C, *size) in [0, 1] with the pictures at these places (n,)."""
    size = (images.shape[2], images.shape[3])
    for begin in range(0, len(places), CHUNK):
        pixels = pictures.pixels[places[begin : begin + CHUNK]]
        images[begin : begin + CHUNK] = resize(torch.from_numpy(pixels.astype(np.float32)) / 255, size)


def _digest(pictures: Pictures, place: int) -> str:
    pixels = np.ascontiguousarray(pictures.pixels[place])
    return hashlib.sha256(repr(pixels.shape).encode() + pixels.tobytes()).hexdigest()
