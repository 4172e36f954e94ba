"""The IDX files of MNIST and Fashion-MNIST, packed with gzip or not (LeCun, Cortes & Burges; Xiao et al. 2017)."""

from __future__ import annotations

import gzip
import math
import struct
import zlib
from pathlib import Path

import numpy as np

from nnunet_ima.classification.archives.base import (
    DIGITS,
    Archive,
    Array,
    Pictures,
    check_pictures,
    is_there,
    read_exactly,
    require_file,
)

LAYOUT = "MNIST's IDX files"
PARTS = {"train": "train", "test": "t10k"}
UNSIGNED_BYTE = 0x08


def spellings(part: str, content: str, axes: int) -> tuple[str, ...]:
    """Return the names that a file goes by; some copies write a dot for the dash before idx."""
    return tuple(f"{PARTS[part]}-{content}{dot}idx{axes}-ubyte{end}" for dot in "-." for end in ("", ".gz"))


NAMES = tuple(name for part in PARTS for name in (*spellings(part, "images", 3), *spellings(part, "labels", 1)))


def recognises(folder: Path) -> bool:
    """Tell whether a folder holds such files."""
    return is_there(folder, NAMES)


def read(folder: Path) -> Archive:
    """Read train-images-idx3-ubyte, train-labels-idx1-ubyte and the two files t10k-...; classes are "0" to "9".

    Raises:
        FileNotFoundError: one of the four is missing.
        ValueError: one is damaged, or they do not fit each other.
    """
    train, test = _part(folder, "train"), _part(folder, "test")
    if train.pixels.shape[2:] != test.pixels.shape[2:]:
        sizes = (f"{part.pixels.shape[2]}×{part.pixels.shape[3]}" for part in (train, test))
        raise ValueError(f"{folder} holds images of {' and '.join(sizes)} pixels; train and t10k must be of one size")
    return Archive(train, test)


def read_idx(file: Path, axes: int) -> Array:
    """Read a file of unsigned bytes.

    Args:
        file: ending in .gz if it is packed.
        axes: that it must have.

    Raises:
        ValueError: it is something else, damaged, or not as long as its header says.
    """
    header = 4 + 4 * axes
    try:
        with gzip.open(file) if file.suffix == ".gz" else file.open("rb") as stream:
            begin: bytes = stream.read(header)
    except (OSError, EOFError, zlib.error) as error:
        raise ValueError(f"{file} is damaged or cut off ({error}); copy it again") from error
    if len(begin) < header:
        raise ValueError(f"{file} is cut off: its header has {header} bytes, it has {len(begin)}; copy it again")
    if begin[:2] != b"\0\0" or begin[3] != axes:
        msg = f"{file} begins with {begin[:4].hex()}; an IDX file with {axes} axes begins with 0000080{axes}"
        raise ValueError(msg)
    if begin[2] != UNSIGNED_BYTE:
        msg = f"{file} holds numbers of type 0x{begin[2]:02x}; only unsigned bytes, type 0x08, are read"
        raise ValueError(msg)
    shape = struct.unpack(f">{axes}I", begin[4:])
    if not all(shape):
        raise ValueError(f"{file} holds nothing: its shape is {'×'.join(map(str, shape))}")
    return np.frombuffer(read_exactly(file, header, math.prod(shape)), np.uint8).reshape(shape)


def _part(folder: Path, part: str) -> Pictures:
    images, labels = _find(folder, part, "images", 3), _find(folder, part, "labels", 1)
    pictures = Pictures(read_idx(images, 3)[:, None], read_idx(labels, 1).astype(np.int64))
    return check_pictures(pictures, images, labels, len(DIGITS))


def _find(folder: Path, part: str, content: str, axes: int) -> Path:
    names = spellings(part, content, axes)
    return next((folder / name for name in names if (folder / name).is_file()), None) or require_file(
        folder / names[0], LAYOUT
    )
