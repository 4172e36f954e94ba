"""CIFAR-10, Python version (Krizhevsky 2009): pickles by Python 2, which are read without running anything."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from nnunet_ima.classification.archives.base import DIGITS, Archive, Pictures, check_pictures, is_there, require_file
from nnunet_ima.classification.archives.cifar import RECORD, SHAPE, check_names, joined
from nnunet_ima.classification.archives.plain_pickle import load_plain

LAYOUT = "CIFAR-10's Python version"
BATCHES = tuple(f"data_batch_{number}" for number in range(1, 6))
TEST, META = "test_batch", "batches.meta"


def recognises(folder: Path) -> bool:
    """Tell whether a folder holds such files."""
    return is_there(folder, (*BATCHES, TEST))


def read(folder: Path) -> Archive:
    """Read the five training batches, the test batch and, if it is there, batches.meta with the classes' names.

    Raises:
        FileNotFoundError: a batch is missing.
        ValueError: a file is damaged, or holds anything but numbers, texts and arrays of bytes.
    """
    files = [require_file(folder / name, LAYOUT) for name in (*BATCHES, TEST)]
    *train, test = (_read(file) for file in files)
    return Archive(joined(train, files[:-1]), test, _classes(folder / META))


def _read(file: Path) -> Pictures:
    entries = _dictionary(file)
    pixels, labels = entries.get("data"), entries.get("labels")
    if not isinstance(pixels, np.ndarray) or pixels.ndim != 2 or pixels.shape[1] != RECORD:
        raise ValueError(f"{file} holds no array data of N×{RECORD} bytes; it is not {LAYOUT}")
    if not isinstance(labels, list) or not all(type(label) is int and abs(label) < 2**31 for label in labels):
        raise ValueError(f"{file} holds no list of labels; it is not {LAYOUT}")
    return check_pictures(Pictures(pixels.reshape(-1, *SHAPE), np.array(labels, np.int64)), file, file)


def _classes(file: Path) -> tuple[str, ...]:
    if not is_there(file.parent, (file.name,)):
        return DIGITS
    names = _dictionary(require_file(file, LAYOUT)).get("label_names")
    return check_names([_text(name) for name in names] if isinstance(names, list) else [], file)


def _dictionary(file: Path) -> dict[Any, Any]:
    found = load_plain(file)
    if not isinstance(found, dict):
        raise ValueError(f"{file} holds no dictionary; it is not {LAYOUT}")
    return {_text(key): value for key, value in found.items()}


def _text(value: Any) -> Any:
    """Return a text of Python 2, which Python 3 reads as bytes, as text."""
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else value
