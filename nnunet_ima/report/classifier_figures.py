"""Figures of an audit of classifiers: accuracy against noise, and one image under growing noise."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib

from nnunet_ima.classification.examples import Example
from nnunet_ima.report.canvas import drawn_figure

MARKERS = "osD^vP*X<>"


def draw_accuracy_curves(summary: Mapping[str, Any], file: Path) -> None:
    """Draw the accuracy under the worst attack against ε, a curve for each model, with 95 % intervals.

    Levels are spaced evenly, since they grow by factors; dotted lines are the accuracy under white noise.

    Args:
        summary: see `classification.summary.summarise_classifiers`.
        file: PNG to write.
    """
    levels = [0.0, *summary["settings"]["eps"]]
    colours = matplotlib.colormaps["tab10"].colors  # type: ignore[attr-defined]
    with drawn_figure(file, (8, 5)) as figure:
        axis = figure.subplots()
        for number, model in enumerate(entry["model"] for entry in summary["models"]):
            rows = [row for row in summary["rows"] if row["model"] == model]
            colour, places = colours[number % len(colours)], [levels.index(row["eps"]) for row in rows]
            value, low, high = ([row["accuracy"][key] for row in rows] for key in ("value", "low", "high"))
            axis.plot(places, value, marker=MARKERS[number % len(MARKERS)], ms=5, c=colour, label=model)
            axis.fill_between(places, low, high, color=colour, alpha=0.08, lw=0)
            white = [value[0], *(row["noise"]["value"] for row in rows if row["noise"] is not None)]
            axis.plot(places[: len(white)], white, ":", lw=1, c=colour)
        axis.set_xticks(range(len(levels)), [f"{eps:g}" for eps in levels])
        axis.set(xlabel=f"ε ({summary['settings']['norm']})", ylabel="accuracy under the worst attack", ylim=(0, 1.02))
        axis.grid(alpha=0.3)
        axis.legend(fontsize=8, title="dotted: white noise", title_fontsize=8)


def draw_examples(panels: Mapping[str, Sequence[Example]], file: Path, title: str = "") -> None:
    """Draw one image under growing noise: a row for each model, a column for each noise level.

    Headings name the noise level and the predicted class, in red where it is wrong.

    Args:
        panels: model name to its columns.
        file: PNG to write.
        title: of the whole figure.

    Raises:
        ValueError: there is nothing to draw.
    """
    columns = max((len(row) for row in panels.values()), default=0)
    if not columns:
        msg = "there are no panels to draw"
        raise ValueError(msg)
    with drawn_figure(file, (1.9 * columns + 0.4, 2.3 * len(panels) + 0.3)) as figure:
        axes = figure.subplots(len(panels), columns, squeeze=False)
        for axis in axes.flat:
            axis.set(xticks=[], yticks=[])
        for row, (model, shown) in zip(axes, panels.items(), strict=True):
            row[0].set_ylabel(model)
            for axis, panel in zip(row, shown, strict=False):
                axis.imshow(panel.image.clip(0, 1), cmap="gray", vmin=0, vmax=1)
                colour = "black" if panel.right else "red"
                axis.set_title(f"ε = {panel.eps:g}\n{panel.predicted}", fontsize=9, color=colour)
            for axis in row[len(shown) :]:
                axis.set_axis_off()
        figure.suptitle(title)
