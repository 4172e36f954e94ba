"""What an archive of small pictures is once it is read, and how its files are read without being believed."""

from __future__ import annotations

import gzip
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

Array = np.ndarray[Any, np.dtype[Any]]

MAX_BYTES = 1 << 30
"""Of one file, unpacked: five times the largest of the original ones that are read."""

GZIP_RATIO = 1100
"""Deflate makes no more than 1032 bytes of one, so that a header that claims more is wrong."""

DIGITS = tuple("0123456789")


@dataclass(frozen=True)
class Pictures:
    """Pictures of one size and their classes.

    Attributes:
        pixels: uint8 (N, C, H, W), grey or RGB.
        labels: int64 (N,).
    """

    pixels: Array
    labels: Array


@dataclass(frozen=True)
class Archive:
    """A data set with a test set of its own.

    Attributes:
        train: pictures to train and to choose with.
        test: of the original test set, of the same size.
        classes: names, in the order of the labels.
        notes: what a reader of results should know.
    """

    train: Pictures
    test: Pictures
    classes: tuple[str, ...] = DIGITS
    notes: tuple[str, ...] = ()


def is_there(folder: Path, names: tuple[str, ...]) -> bool:
    """Tell whether a folder holds any file of these names; a link to nowhere counts, so that reading names it."""
    return any((folder / name).is_file() or (folder / name).is_symlink() for name in names)


def require_file(file: Path, layout: str) -> Path:
    """Return the file.

    Raises:
        FileNotFoundError: there is none.
    """
    if not file.is_file():
        raise FileNotFoundError(f"{file} is missing, which belongs to {layout}; put it beside the others")
    return file


def read_whole(file: Path) -> bytes:
    """Read a file of at most `MAX_BYTES`.

    Raises:
        ValueError: it is larger.
    """
    if (size := file.stat().st_size) > MAX_BYTES:
        raise ValueError(f"{file} has {size} bytes; at most {MAX_BYTES} are read, which no original file exceeds")
    return file.read_bytes()


def read_exactly(file: Path, header: int, expected: int) -> bytes:
    """Read what follows a header that has told how much it is; nothing is reserved for it before that is possible.

    Args:
        file: packed (.gz) or not.
        header: bytes before.
        expected: bytes that have to follow, and no more.

    Raises:
        ValueError: there are fewer or more, or more than `MAX_BYTES`, or the packing is damaged.
    """
    size, packed = file.stat().st_size, file.suffix == ".gz"
    if expected > MAX_BYTES:
        raise ValueError(f"{file} claims to hold {expected} bytes; at most {MAX_BYTES} are read")
    if size - header < expected if not packed else size * GZIP_RATIO < expected:
        raise ValueError(f"{file} is cut off: its header promises {expected} bytes, it has {size}; copy it again")
    try:
        with gzip.open(file) if packed else file.open("rb") as stream:
            stream.read(header)
            content: bytes = stream.read(expected)
            # the end of a packed file holds the check sum of all that came before
            more = bool(stream.read(1))
    except (OSError, EOFError, zlib.error) as error:
        raise ValueError(f"{file} is damaged or cut off ({error}); copy it again") from error
    if len(content) < expected:
        msg = f"{file} is cut off: its header promises {expected} bytes, {len(content)} follow; copy it again"
        raise ValueError(msg)
    if more:
        raise ValueError(f"{file} holds more than the {expected} bytes that its header promises; copy it again")
    return content


def check_pictures(pictures: Pictures, images: Path, labels: Path, classes: int = len(DIGITS)) -> Pictures:
    """Return pictures that fit their classes.

    Args:
        pictures: what was read.
        images: file of the pixels, for the message.
        labels: file of the classes.
        classes: number of classes; a label is 0 or more, and below.

    Raises:
        ValueError: there are none, or not as many of both, or a label is no class.
    """
    if len(pictures.pixels) != len(pictures.labels):
        holder = "" if images == labels else f"{labels} holds "
        msg = (
            f"{images} holds {len(pictures.pixels)} images, but {holder}{len(pictures.labels)} labels; copy them again"
        )
        raise ValueError(msg)
    if not len(pictures.labels):
        raise ValueError(f"{images} holds no images")
    wrong = np.flatnonzero((pictures.labels < 0) | (pictures.labels >= classes))
    if len(wrong):
        msg = f"{labels} gives image {wrong[0]} the label {pictures.labels[wrong[0]]}; labels are 0 to {classes - 1}"
        raise ValueError(msg)
    return pictures
