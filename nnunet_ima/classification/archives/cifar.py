"""What both versions of CIFAR-10 share."""

from __future__ import annotations

import reprlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from nnunet_ima.classification.archives.base import DIGITS, Pictures
from nnunet_ima.classification.images import is_plain

SHAPE = (3, 32, 32)
RECORD = 3 * 32 * 32


def joined(batches: Sequence[Pictures], files: Sequence[Path]) -> Pictures:
    """Join the training batches.

    Raises:
        ValueError: they are not of one length, as the original ones are: one has lost its end.
    """
    counts = [len(batch.labels) for batch in batches]
    for count, file in zip(counts, files, strict=True):
        if count < max(counts):
            msg = f"{file} holds {count} images, another batch {max(counts)}; all hold as many, so copy it again"
            raise ValueError(msg)
    pixels, labels = (np.concatenate([getattr(batch, name) for batch in batches]) for name in ("pixels", "labels"))
    return Pictures(pixels, labels)


def check_names(names: Sequence[object], file: Path) -> tuple[str, ...]:
    """Return the names of the classes.

    Raises:
        ValueError: they are not ten different plain texts.
    """
    texts = tuple(name for name in names if isinstance(name, str) and name and is_plain(name))
    if len(texts) < len(names) or len(set(texts)) != len(DIGITS) or len(texts) != len(DIGITS):
        msg = f"{file} must hold the names of {len(DIGITS)} classes, got {reprlib.repr(list(names))}"
        raise ValueError(f"{msg}; copy it again, or remove it to have the classes numbered")
    return texts
