"""CIFAR-10, binary version (Krizhevsky 2009): records of one byte of label and 3072 of pixels, red first."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from nnunet_ima.classification.archives.base import (
    DIGITS,
    Archive,
    Pictures,
    check_pictures,
    is_there,
    read_whole,
    require_file,
)
from nnunet_ima.classification.archives.cifar import RECORD, SHAPE, check_names, joined

LAYOUT = "CIFAR-10's binary version"
BATCHES = tuple(f"data_batch_{number}.bin" for number in range(1, 6))
TEST, META = "test_batch.bin", "batches.meta.txt"


def recognises(folder: Path) -> bool:
    """Tell whether a folder holds such files."""
    return is_there(folder, (*BATCHES, TEST))


def read(folder: Path) -> Archive:
    """Read the five training batches, the test batch and, if it is there, batches.meta.txt with the classes' names.

    Raises:
        FileNotFoundError: a batch is missing.
        ValueError: a file is damaged.
    """
    files = [require_file(folder / name, LAYOUT) for name in (*BATCHES, TEST)]
    *train, test = (_read(file) for file in files)
    return Archive(joined(train, files[:-1]), test, _classes(folder / META))


def _read(file: Path) -> Pictures:
    raw = read_whole(file)
    if not raw or len(raw) % (RECORD + 1):
        msg = f"{file} has {len(raw)} bytes; an image takes {RECORD + 1}, so it is cut off or something else"
        raise ValueError(msg)
    records = np.frombuffer(raw, np.uint8).reshape(-1, RECORD + 1)
    return check_pictures(Pictures(records[:, 1:].reshape(-1, *SHAPE), records[:, 0].astype(np.int64)), file, file)


def _classes(file: Path) -> tuple[str, ...]:
    if not is_there(file.parent, (file.name,)):
        return DIGITS
    try:
        lines = read_whole(require_file(file, LAYOUT)).decode().split("\n")
    except UnicodeDecodeError as error:
        raise ValueError(f"{file} is no text ({error}); copy it again, or remove it") from error
    return check_names([line.strip() for line in lines if line.strip()], file)
