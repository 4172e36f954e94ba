"""Writes scikit-learn's handwritten digits (8×8 pixels) as IDX files like MNIST's: a data set that needs no download.

    python scripts/digits.py FOLDER

The last 297 of the 1797 images become the test set.
"""

from __future__ import annotations

import struct
import sys
from pathlib import Path

import numpy as np
from sklearn.datasets import load_digits

TEST = 297


def write(folder: Path) -> None:
    """Write the four files."""
    digits = load_digits()
    pixels, labels = (15 * digits.images).astype(np.uint8), digits.target.astype(np.uint8)  # 0 to 16 becomes 0 to 240
    folder.mkdir(parents=True, exist_ok=True)
    for name, part in (("train", slice(None, -TEST)), ("t10k", slice(-TEST, None))):
        for content, values in (("images", pixels[part]), ("labels", labels[part])):
            header = struct.pack(f">BBBB{values.ndim}I", 0, 0, 8, values.ndim, *values.shape)
            (folder / f"{name}-{content}-idx{values.ndim}-ubyte").write_bytes(header + values.tobytes())


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: python scripts/digits.py FOLDER")
    write(Path(sys.argv[1]))
