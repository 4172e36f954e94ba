"""Figures that look the same wherever they are drawn."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from matplotlib import style
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from nnunet_ima.files import atomic_file

# Okabe and Ito's, which colour-blind readers can tell apart; with more models they come again.
MODEL_COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000")


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
        with atomic_file(file) as stream:
            figure.savefig(stream, format="png", dpi=100)
