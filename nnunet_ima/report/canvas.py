"""Figures that look the same wherever they are drawn."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from matplotlib import style
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure


@contextmanager
def drawn_figure(file: Path, size: tuple[float, float]) -> Iterator[Figure]:
    """Lend an empty figure and write it as a PNG at the end.

    Args:
        file: PNG to write.
        size: width and height in inches, at 100 dots per inch.
    """
    with style.context("default"):  # nnU-Net's own plots change fonts and colours for the whole process
        figure = Figure(figsize=size, layout="constrained")
        FigureCanvasAgg(figure)
        yield figure
        figure.savefig(file, dpi=100)
