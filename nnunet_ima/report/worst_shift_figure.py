"""The worst realistic change of a case as a picture: the scan before and after it, labels and predictions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from textwrap import fill
from typing import Any

import numpy as np

from nnunet_ima.report.audit_figures import failing_slices
from nnunet_ima.report.canvas import drawn_figure
from nnunet_ima.report.noise_grid import COLOURS, outline
from nnunet_ima.shift.scan import Scan

Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class WorstChange:
    """A case before and after its worst change, slices first.

    Attributes:
        title: names model, case and Dice.
        told: what was changed, in words.
        image: (Z, Y, X), in raw units, before.
        changed: the same after.
        label: true label map (Z, Y, X) before.
        moved: the same after.
        clean: predicted label map (Z, Y, X) before.
        predicted: the same after.
        spacing: of the axes (Z, Y, X), in mm.
    """

    title: str
    told: Sequence[str]
    image: Array
    changed: Array
    label: Array
    moved: Array
    clean: Array
    predicted: Array
    spacing: Sequence[float]


def worst_change(
    title: str, told: Sequence[str], before: Scan, after: Scan, predicted: tuple[Array, Array]
) -> WorstChange:
    """Two scans by their first channels, and the predictions of both, with the slices' axis first."""
    axis = before.slice_axis
    image, changed, label, moved, clean, worst = (
        np.moveaxis(volume, axis, 0)
        for volume in (before.channels[0], after.channels[0], before.label, after.label, *predicted)
    )
    spacing = [before.spacing[axis], *(before.spacing[other] for other in before.in_plane)]
    return WorstChange(title, told, image, changed, label, moved, clean, worst, spacing)


def draw_worst_change(case: WorstChange, file: Path) -> None:
    """Draw the scan before and after, bare and with label and prediction, on the slices where the latter fails most.

    Args:
        case: what to draw.
        file: PNG to write.
    """
    slices = failing_slices(case.moved, case.predicted)
    aspect = case.spacing[1] / case.spacing[2]
    pairs = ((case.image, case.label, case.clean), (case.changed, case.moved, case.predicted))
    with drawn_figure(file, (11, 2.9 * len(slices) + 1.1)) as figure:
        axes = figure.subplots(len(slices), 4, squeeze=False)
        for row, z in zip(axes, slices, strict=True):
            row[0].set_ylabel(f"slice {z + 1} of {len(case.image)}")
            for number, (image, label, predicted) in enumerate(pairs):
                window = {"cmap": "gray", "vmin": np.percentile(image, 1), "vmax": np.percentile(image, 99.5)}
                row[number].imshow(image[z], aspect=aspect, **window)
                row[2 + number].set_facecolor("black")  # shines through: white outlines need a dark image
                row[2 + number].imshow(image[z], aspect=aspect, alpha=0.6, **window)
                for value in range(1, int(max(label.max(), predicted.max())) + 1):
                    outline(row[2 + number], label[z] == value, "white", 0.9)
                    outline(row[2 + number], predicted[z] == value, COLOURS[(value - 1) % (len(COLOURS) - 1) + 1], 1.5)
        for axis, title in zip(axes[0], ("scan", "changed scan", "prediction", "prediction, changed"), strict=True):
            axis.set_title(title, fontsize=10)
        for axis in axes.flat:
            axis.set(xticks=[], yticks=[])
        told = fill("; ".join(case.told), 130)
        figure.suptitle(f"{case.title}\n{told}\nwhite: the label's outline; coloured: the prediction's", fontsize=10)
