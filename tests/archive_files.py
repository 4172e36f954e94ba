"""Writes tiny data sets in the formats of Fashion-MNIST, SVHN and CIFAR-10, without the code that reads them."""

from __future__ import annotations

import gzip
import os
import pickle
import struct
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from scipy.io import savemat

Array = np.ndarray[Any, Any]
CIFAR_NAMES = "airplane automobile bird cat deer dog frog horse ship truck".split()


def grey_pictures(number: int, seed: int = 0, size: int = 28) -> tuple[Array, Array]:
    """Pixels (N, size, size) and labels (N,), every class as often."""
    rng = np.random.default_rng(seed)
    return rng.integers(0, 256, (number, size, size), dtype=np.uint8), np.arange(number, dtype=np.uint8) % 10


def rgb_pictures(number: int, seed: int = 0) -> tuple[Array, Array]:
    """Pixels (N, 3, 32, 32) and labels (N,)."""
    rng = np.random.default_rng(seed)
    return rng.integers(0, 256, (number, 3, 32, 32), dtype=np.uint8), np.arange(number, dtype=np.uint8) % 10


def idx_bytes(values: Array) -> bytes:
    return struct.pack(f">BBBB{values.ndim}I", 0, 0, 8, values.ndim, *values.shape) + values.tobytes()


def write_idx(folder: Path, train: tuple[Array, Array], test: tuple[Array, Array], packed: bool = False) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, (pixels, labels) in (("train", train), ("t10k", test)):
        for content, values, axes in (("images", pixels, 3), ("labels", labels, 1)):
            raw, file = idx_bytes(values), folder / f"{name}-{content}-idx{axes}-ubyte"
            if packed:
                file.with_name(file.name + ".gz").write_bytes(gzip.compress(raw))
            else:
                file.write_bytes(raw)


def write_svhn(folder: Path, train: tuple[Array, Array], test: tuple[Array, Array], packed: bool = True) -> None:
    """As MATLAB writes them: rows, columns, colours, images; the digit 0 is the label 10."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, (pixels, labels) in (("train", train), ("test", test)):
        digits = np.where(labels == 0, 10, labels).astype(np.uint8)[:, None]
        content = {"X": pixels.transpose(2, 3, 1, 0), "y": digits}
        savemat(folder / f"{name}_32x32.mat", content, do_compression=packed)


def batches(train: tuple[Array, Array]) -> list[tuple[Array, Array]]:
    pixels, labels = train
    return list(zip(np.split(pixels, 5), np.split(labels, 5), strict=True))


def write_cifar_binary(folder: Path, train: tuple[Array, Array], test: tuple[Array, Array]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    names = [*(f"data_batch_{number}.bin" for number in range(1, 6)), "test_batch.bin"]
    for name, (pixels, labels) in zip(names, [*batches(train), test], strict=True):
        (folder / name).write_bytes(np.hstack([labels[:, None], pixels.reshape(len(labels), -1)]).tobytes())
    (folder / "batches.meta.txt").write_text("\n".join(CIFAR_NAMES) + "\n\n")


def write_cifar_python(folder: Path, train: tuple[Array, Array], test: tuple[Array, Array]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    names = [*(f"data_batch_{number}" for number in range(1, 6)), "test_batch"]
    for name, (pixels, labels) in zip(names, [*batches(train), test], strict=True):
        (folder / name).write_bytes(python2_batch(pixels.reshape(len(labels), -1), labels.tolist()))
    (folder / "batches.meta").write_bytes(
        python2_pickle({b"num_cases_per_batch": 10, b"label_names": [name.encode() for name in CIFAR_NAMES]})
    )


def python2_batch(pixels: Array, labels: Sequence[int]) -> bytes:
    content = {b"batch_label": b"training batch 1 of 5", b"labels": list(labels), b"data": pixels}
    return python2_pickle(content | {b"filenames": [b"a.png"] * len(labels)})


def python2_pickle(value: Any) -> bytes:
    """Pickle with protocol 2 as Python 2 did: its texts, bytes here, are of a kind that Python 3 never writes."""
    return b"\x80\x02" + _python2(value) + b"."


def _python2(value: Any) -> bytes:
    if isinstance(value, bytes):
        short = len(value) < 256
        return (b"U" + bytes([len(value)]) if short else b"T" + struct.pack("<i", len(value))) + value
    if isinstance(value, int):
        return b"J" + struct.pack("<i", value)
    if isinstance(value, list):
        return b"](" + b"".join(map(_python2, value)) + b"e"
    if isinstance(value, dict):
        return b"}(" + b"".join(_python2(key) + _python2(entry) for key, entry in value.items()) + b"u"
    if isinstance(value, np.ndarray):
        kind = b"cnumpy\ndtype\nU\x02u1K\x00K\x01\x87R(K\x03U\x01|NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb"
        shape = b"".join(map(_python2, value.shape))
        state = b"(K\x01(" + shape + b"t" + kind + b"\x89" + _python2(value.tobytes()) + b"t"
        return b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85U\x01b\x87R" + state + b"b"
    raise TypeError(type(value))


class Evil:
    """Its pickle makes a folder when it is loaded by somebody who runs what it names."""

    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.trace),)


def evil_pickle(trace: Path, protocol: int = 2) -> bytes:
    return pickle.dumps({"data": Evil(trace), "labels": []}, protocol)
