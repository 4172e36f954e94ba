"""Draws docs/figures/exact_gradient.png: how the gradient through nnU-Net's sliding window is found in two passes.

python scripts/draw_exact_gradient.py
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import tyro
from matplotlib.axes import Axes
from matplotlib.patches import FancyBboxPatch, Rectangle

from nnunet_ima.report.canvas import drawn_figure

COLOURS = ("#0072b2", "#e69f00", "#009e73")
LENGTH, WINDOW = 2.6, 1.3  # of the volume and of a window; their step is half a window
STARTS = (0.0, 0.65, 1.3)
AT = (0.2, 3.5, 6.8, 10.1)  # the columns


@dataclass
class Draw:
    """Draw the figure."""

    output: Path = Path("docs/figures/exact_gradient.png")
    """PNG to write."""

    def run(self) -> None:
        """Do it."""
        with drawn_figure(self.output, (9.6, 5.0)) as figure:
            axes = figure.add_subplot()
            axes.set(xlim=(0, 13), ylim=(0, 7.2))
            axes.axis("off")
            _row(axes, 3.9, FORWARD, "Pass 1, no graph is kept: what does nnU-Net predict?")
            _row(axes, 0.1, BACKWARD, "Pass 2, window by window: how would it change with each voxel?")


FORWARD = (
    ("image x", "cut into windows,\nand mirrored copies"),
    ("each window by itself", "through the network\nof each fold"),
    ("logits × Gaussian", "mirrored back"),
    ("fused logits Z", "sum ÷ sum of the Gaussians;\ntheir loss L gives ∂L/∂Z"),
)
BACKWARD = (
    ("∂L/∂Z ÷ sum of the Gaussians", "cut into the same windows"),
    ("× Gaussian", "mirrored as they were"),
    ("each window again", "forward with a graph, back\nto its voxels; graph dropped"),
    ("gradient ∂L/∂x", "sum over windows,\ncopies and folds"),
)


def _row(axes: Axes, low: float, steps: tuple[tuple[str, str], ...], title: str) -> None:
    """A pass: volume, windows, windows, volume."""
    axes.text(0.2, low + 3.0, title, fontsize=11, weight="bold")
    for number, (head, below) in enumerate(steps):
        left = AT[number]
        axes.text(left + LENGTH / 2, low + 2.45, head, ha="center", fontsize=9.5)
        axes.text(left + LENGTH / 2, low + 0.42, below, ha="center", va="top", fontsize=8.5, color="0.25")
        if number in (0, 3):
            _volume(axes, left, low + 1.1)
        elif "Gaussian" in head:
            _gaussians(axes, left, low)
        else:
            _network(axes, left, low, "⇄" if "again" in head else "→")
        if number < 3:
            arrow = {"arrowstyle": "-|>", "color": "0.35", "lw": 1.4}
            axes.annotate("", (AT[number + 1] - 0.1, low + 1.35), (left + LENGTH + 0.1, low + 1.35), arrowprops=arrow)


def _volume(axes: Axes, left: float, low: float) -> None:
    """A volume, and where its windows lie."""
    axes.add_patch(Rectangle((left, low), LENGTH, 0.5, facecolor="0.85", edgecolor="0.4"))
    for number, (start, colour) in enumerate(zip(STARTS, COLOURS, strict=True)):
        height = low + 0.62 + 0.16 * number
        axes.plot([left + start, left + start + WINDOW], [height, height], color=colour, lw=3, solid_capstyle="butt")


def _gaussians(axes: Axes, left: float, low: float) -> None:
    """The weight of each window, which is nnU-Net's: its sigma is an eighth of the window."""
    x = np.linspace(-1, 1, 60)
    bump = 0.42 * np.exp(-(x**2) / (2 * 0.25**2))
    for number, colour in enumerate(COLOURS):
        height = low + 1.75 - 0.55 * number
        along = left + (LENGTH + x * WINDOW) / 2
        axes.fill_between(along, height, height + bump, color=colour, alpha=0.35)
        axes.plot(along, height + bump, color=colour, lw=1.2)


def _network(axes: Axes, left: float, low: float, arrow: str) -> None:
    """Each window on its way through the network."""
    for number, colour in enumerate(COLOURS):
        height = low + 1.75 - 0.55 * number
        axes.add_patch(Rectangle((left, height), WINDOW, 0.36, facecolor=colour, alpha=0.35, edgecolor=colour))
        axes.text(left + WINDOW + 0.1, height + 0.18, arrow, va="center", fontsize=9)
    corner = (left + WINDOW + 0.4, low + 0.65)
    axes.add_patch(FancyBboxPatch(corner, 0.85, 1.46, "round,pad=0.02", facecolor="w", edgecolor="0.3"))
    axes.text(left + WINDOW + 0.83, low + 1.38, "network", rotation=90, ha="center", va="center", fontsize=9)


if __name__ == "__main__":
    tyro.cli(Draw).run()
