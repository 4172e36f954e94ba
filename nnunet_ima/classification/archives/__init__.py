"""Data sets in the files that their authors publish: one file here for each format.

A format is a module with `LAYOUT` (its name), `recognises(folder)` and `read(folder)`, and a line here.
"""

from __future__ import annotations

from pathlib import Path

from nnunet_ima.classification.archives import cifar_binary, cifar_python, idx, svhn
from nnunet_ima.classification.archives.base import Archive, Pictures

__all__ = ["FORMATS", "KNOWN", "Archive", "Pictures", "find_archive", "read_archive"]

FORMATS = {module.LAYOUT: module for module in (idx, svhn, cifar_binary, cifar_python)}
KNOWN = "the original files of Fashion-MNIST (IDX), SVHN (.mat) or CIFAR-10 (.bin or Python)"


def find_archive(folder: Path) -> str | None:
    """Return which layout a folder has, by the names of its files; None if it has none of these.

    Raises:
        ValueError: it has several.
    """
    found = [layout for layout, module in FORMATS.items() if module.recognises(folder)]
    if len(found) > 1:
        raise ValueError(f"{folder} holds {' and '.join(found)}; put each data set into a folder of its own")
    return found[0] if found else None


def read_archive(folder: Path, layout: str) -> Archive:
    """Read a folder of a layout; see the layout's module for what is raised."""
    archive: Archive = FORMATS[layout].read(folder)
    return archive
