"""The figure of the supplement (figures 5 to 7): what each model makes of one case under growing noise."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from nnunet_ima.report.canvas import drawn_figure

Array = np.ndarray[Any, Any]
COLOURS = ("none", "tab:red", "tab:cyan", "tab:orange", "tab:purple", "tab:green", "tab:pink")


def draw_noise_grid(
    label: Array, panels: Mapping[str, Sequence[tuple[str, Array, Array]]], file: Path, title: str = ""
) -> None:
    """Draw, for each model, a row of noisy images and a row of predictions; one column per noise level.

    Args:
        label: true label map (H, W), outlined in white.
        panels: model name to its columns: heading, image (H, W) in σ, predicted label map (H, W).
        file: PNG to write.
        title: of the whole figure.
    """
    columns = max(len(row) for row in panels.values())
    with drawn_figure(file, (2.2 * columns + 0.6, 4.6 * len(panels))) as figure:
        axes = figure.subplots(2 * len(panels), columns, squeeze=False)
        first = next(iter(panels.values()))[0][1]
        window = {"cmap": "gray", "vmin": np.percentile(first, 1), "vmax": np.percentile(first, 99.5)}
        for number, (model, row) in enumerate(panels.items()):
            image_axes, prediction_axes = axes[2 * number], axes[2 * number + 1]
            image_axes[0].set_ylabel(f"{model}\nimage")
            prediction_axes[0].set_ylabel(f"{model}\nprediction")
            for column, (heading, image, predicted) in enumerate(row):
                image_axes[column].imshow(image, **window)
                image_axes[column].set_title(heading, fontsize=9)
                prediction_axes[column].imshow(image, alpha=0.5, **window)
                for value in range(1, int(max(label.max(), predicted.max())) + 1):
                    colour = COLOURS[(value - 1) % (len(COLOURS) - 1) + 1]
                    outline(prediction_axes[column], label == value, "white", 0.8)
                    outline(prediction_axes[column], predicted == value, colour, 1.4)
        for axis in axes.flat:
            axis.set(xticks=[], yticks=[])
        figure.suptitle(title)


def outline(axis: Any, mask: Array, colour: str, width: float) -> None:
    """Draw the border of a mask (H, W); nothing if it is empty."""
    if mask.any():
        axis.contour(mask, levels=[0.5], colors=colour, linewidths=width)
