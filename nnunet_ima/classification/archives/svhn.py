"""The cropped digits of SVHN (Netzer et al. 2011): train_32x32.mat and test_32x32.mat, MATLAB 5 files."""

from __future__ import annotations

import io
import zlib
from pathlib import Path
from typing import Any

import numpy as np
from scipy.io import loadmat

from nnunet_ima.classification.archives.base import (
    DIGITS,
    MAX_BYTES,
    Archive,
    Pictures,
    check_pictures,
    is_there,
    read_whole,
    require_file,
)

LAYOUT = "SVHN's cropped digits"
TRAIN, TEST, EXTRA = "train_32x32.mat", "test_32x32.mat", "extra_32x32.mat"
HEADER, TAG = 128, 8  # bytes
COMPRESSED = 15


def recognises(folder: Path) -> bool:
    """Tell whether a folder holds such files."""
    return is_there(folder, (TRAIN, TEST))


def read(folder: Path) -> Archive:
    """Read both files; the label 10 becomes 0, so that each class is the digit that it shows.

    Raises:
        FileNotFoundError: one of them is missing.
        ValueError: one is damaged or something else.
    """
    train, test = (_read(require_file(folder / name, LAYOUT)) for name in (TRAIN, TEST))
    notes = (f"{EXTRA} is not used",) if is_there(folder, (EXTRA,)) else ()
    return Archive(train, test, notes=notes)


def _read(file: Path) -> Pictures:
    content = _unpacked(file)
    try:
        found = loadmat(io.BytesIO(content), variable_names=("X", "y"))
    except Exception as error:  # a damaged file can raise anything
        raise ValueError(f"{file} cannot be read as a MATLAB file ({error!r}); copy it again") from error
    pixels, labels = found.get("X"), found.get("y")
    if not isinstance(pixels, np.ndarray) or not isinstance(labels, np.ndarray):
        raise ValueError(f"{file} has no variables X and y; it is not {LAYOUT}")
    if pixels.dtype != np.uint8 or pixels.ndim != 4 or pixels.shape[:3] != (32, 32, 3):
        msg = f"{file}: X is {_shape(pixels)} of {pixels.dtype}; it must be 32×32×3×N of uint8"
        raise ValueError(msg)
    if labels.dtype.kind not in "uif" or labels.size != max(labels.shape, default=0):
        raise ValueError(f"{file}: y is {_shape(labels)} of {labels.dtype}; it must be N×1, of numbers")
    whole = labels.ravel().astype(np.int64)
    if len(wrong := np.flatnonzero((whole != labels.ravel()) | (whole < 1) | (whole > len(DIGITS)))):
        msg = f"{file} gives image {wrong[0]} the label {labels.ravel()[wrong[0]]}; SVHN's labels are 1 to 10"
        raise ValueError(msg)
    return check_pictures(Pictures(pixels.transpose(3, 2, 0, 1), whole % len(DIGITS)), file, file)


def _shape(values: np.ndarray[Any, Any]) -> str:
    return "×".join(map(str, values.shape))


def _unpacked(file: Path) -> bytes:
    """Return a MATLAB 5 file with its variables unpacked, each of them no longer than what is really there.

    SciPy reserves what a file claims before it reads; of this one it cannot claim more than `MAX_BYTES`.
    """
    raw = read_whole(file)
    order: dict[bytes, Any] = {b"IM": "little", b"MI": "big"}
    if len(raw) < HEADER or raw[126:128] not in order:
        msg = f"{file} is no MATLAB 5 file, as {LAYOUT} are; later ones (7.3) must be saved as version 5 or 7"
        raise ValueError(msg)
    order_, place, parts, total = order[raw[126:128]], HEADER, [raw[:HEADER]], 0
    while place < len(raw):
        kind, size = (int.from_bytes(raw[place + 4 * i : place + 4 * i + 4], order_) for i in range(2))
        element = raw[place + TAG : place + TAG + size]
        if len(element) < size or len(raw) - place < TAG:
            msg = f"{file} is cut off: a variable of {size} bytes begins at byte {place} of {len(raw)}; copy it again"
            raise ValueError(msg)
        parts.append(
            _inflated(file, element, MAX_BYTES - total) if kind == COMPRESSED else raw[place : place + TAG + size]
        )
        total += len(parts[-1])
        place += TAG + size
    return b"".join(parts)


def _inflated(file: Path, element: bytes, most: int) -> bytes:
    """Unpack one variable, of at most so many bytes."""
    machine = zlib.decompressobj()
    try:
        content = machine.decompress(element, most)
    except zlib.error as error:
        raise ValueError(f"{file} is damaged ({error}); copy it again") from error
    if machine.unconsumed_tail:
        raise ValueError(f"{file} holds more than {MAX_BYTES} bytes when it is unpacked, which no original file does")
    if not machine.eof:
        raise ValueError(f"{file} is damaged: a packed variable has no end; copy it again")
    return content
