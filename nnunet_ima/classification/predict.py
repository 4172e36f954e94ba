"""What a classifier says about image files."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from nnunet_ima.classification.images import SUFFIXES, is_image, is_plain, read_grey, read_rgb, resize, unit_range
from nnunet_ima.classification.networks import Classifier

BATCH = 64


def image_files(paths: Sequence[Path]) -> list[Path]:
    """Return the images among files and, directly in them, folders.

    Raises:
        FileNotFoundError: a path is missing, or a folder holds no images.
        ValueError: a name could not stand in a table.
    """
    files: list[Path] = []
    for path in paths:
        if path.is_dir():
            found = sorted(file for file in path.iterdir() if is_image(file) and not file.is_dir())
            if not found:
                raise FileNotFoundError(f"{path} holds no images ({', '.join(SUFFIXES)})")
            files += found
        elif path.is_file() or path.is_symlink():
            files.append(path)
        else:
            raise FileNotFoundError(f"{path} is missing")
    for file in files:
        if not is_plain(str(file)):
            raise ValueError(f"{str(file)!r} has control characters in its name; rename it")
    return files


def predict(classifier: Classifier, files: Sequence[Path], device: str | torch.device = "cpu") -> list[dict[str, Any]]:
    """Classify images, read and scaled as those of the training.

    Args:
        classifier: see `networks.load_classifier`, on the device.
        files: of the images.
        device: where the classifier is.

    Returns:
        For each image: "image", "class", and "probability NAME" of each class.

    Raises:
        FileNotFoundError: an image is missing.
        ValueError: an image cannot be read.
    """
    size, read = (classifier.size, classifier.size), read_grey if classifier.channels == 1 else read_rgb
    rows: list[dict[str, Any]] = []
    for begin in range(0, len(files), BATCH):
        batch = files[begin : begin + BATCH]
        x = torch.stack([resize(unit_range(read(file)), size) for file in batch])
        with torch.no_grad():
            shares = classifier.network(x.to(device)).float().softmax(1).cpu()
        for file, share in zip(batch, shares, strict=True):
            named = dict(zip((f"probability {name}" for name in classifier.classes), share.tolist(), strict=True))
            rows.append({"image": str(file), "class": classifier.classes[int(share.argmax())], **named})
    return rows
