"""Figures of an audit: Dice against noise, margins of the cases, and the case that fares worst."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import cycle
from pathlib import Path
from typing import Any

import numpy as np

from nnunet_ima.report.canvas import MODEL_COLOURS, drawn_figure
from nnunet_ima.report.noise_grid import COLOURS, outline

Array = np.ndarray[Any, Any]
ATTACK_STYLES, RANDOM_STYLE = ("-", "--", "-."), ":"


def draw_dice_curves(summary: Mapping[str, Any], file: Path) -> None:
    """Draw mean Dice against ε, with 95 % intervals, and beside it that under random noise of the same size.

    Args:
        summary: see `segmentation.summary.summarise`.
        file: PNG to write.
    """
    rows = summary["rows"]
    models = list(dict.fromkeys(row["model"] for row in rows))
    attacks = list(dict.fromkeys(row["attack"] for row in rows if row["attack"] != "clean"))
    with drawn_figure(file, (8, 5)) as figure:
        axis = figure.subplots()
        for model, colour in zip(models, cycle(MODEL_COLOURS), strict=False):
            (clean,) = (row for row in rows if row["model"] == model and row["attack"] == "clean")
            of_model = [row for row in rows if row["model"] == model]
            for number, attack in enumerate(attacks):
                curve = [clean, *(row for row in of_model if row["attack"] == attack)]
                eps, style = [row["eps"] for row in curve], ATTACK_STYLES[number % len(ATTACK_STYLES)]
                axis.plot(
                    eps,
                    [row["mean_dice"] for row in curve],
                    style,
                    marker="o",
                    ms=4,
                    c=colour,
                    label=f"{model}: {attack}",
                )
                if all(row["interval"] for row in curve):
                    low, high = ([row["interval"][end] for row in curve] for end in (0, 1))
                    axis.fill_between(eps, low, high, color=colour, alpha=0.12)
            noisy = {row["eps"]: row["random_dice"] for row in of_model if row["random_dice"] is not None}
            noisy = {0.0: clean["mean_dice"], **noisy}
            axis.plot(list(noisy), list(noisy.values()), RANDOM_STYLE, c=colour, lw=1.2, label=f"{model}: random noise")
        axis.set(xlabel=unit_of(summary), ylabel="mean Dice over cases", ylim=(0, 1.02), xlim=(0, None))
        axis.grid(alpha=0.3)
        _add_sigma(axis, summary)
        figure.legend(loc="outside lower center", ncols=1, fontsize=8)


def draw_margins(summary: Mapping[str, Any], file: Path) -> None:
    """Draw the share of cases that still stand against ε; a tick for each case that falls.

    Args:
        summary: see `segmentation.summary.summarise`; it holds margins.
        file: PNG to write.
    """
    with drawn_figure(file, (8, 4.5)) as figure:
        axis = figure.subplots()
        for number, (entry, colour) in enumerate(zip(summary["margins"], cycle(MODEL_COLOURS), strict=False)):
            fallen = np.sort([eps for eps in entry["values"].values() if eps is not None])
            standing = 1 - np.arange(len(fallen) + 1) / entry["cases"]
            edges = [0.0, *fallen, entry["largest_tried"]]
            axis.stairs(standing, edges, baseline=None, color=colour, lw=2, label=entry["model"])
            axis.plot(fallen, np.full(len(fallen), -0.03 - 0.04 * number), "|", c=colour, ms=9)
        threshold = summary["margins"][0]["threshold"]
        lowest = -0.04 - 0.04 * len(summary["margins"])  # a line of ticks for each model
        axis.set(xlabel=unit_of(summary), ylabel=f"share of cases with Dice ≥ {threshold:g}", ylim=(lowest, 1.05))
        axis.set_xlim(0, max(entry["largest_tried"] for entry in summary["margins"]))
        axis.set_yticks(np.linspace(0, 1, 6))
        axis.grid(alpha=0.3)
        _add_sigma(axis, summary)
        figure.legend(loc="outside lower center", fontsize=8)


@dataclass(frozen=True)
class WorstCase:
    """A case under attack, all on the raw grid.

    Attributes:
        title: names model, case and noise.
        image: (Z, Y, X), in raw units.
        noise: (Z, Y, X), in `unit`.
        unit: of the noise.
        label: true label map (Z, Y, X).
        clean: predicted label map (Z, Y, X) without noise.
        attacked: predicted label map (Z, Y, X) under noise.
        spacing: of the axes (Z, Y, X), in mm.
    """

    title: str
    image: Array
    noise: Array
    unit: str
    label: Array
    clean: Array
    attacked: Array
    spacing: Sequence[float]


def draw_worst_case(case: WorstCase, file: Path) -> None:
    """Draw image, noise, clean and attacked prediction against the label, on the slices where the latter fails most.

    Args:
        case: what to draw.
        file: PNG to write.
    """
    slices = failing_slices(case.label, case.attacked)
    aspect = case.spacing[1] / case.spacing[2]
    window = {"cmap": "gray", "vmin": np.percentile(case.image, 1), "vmax": np.percentile(case.image, 99.5)}
    limit = float(np.abs(case.noise[slices]).max()) or 1.0
    with drawn_figure(file, (11, 2.9 * len(slices) + 0.4)) as figure:
        axes = figure.subplots(len(slices), 4, squeeze=False)
        for row, z in zip(axes, slices, strict=True):
            row[0].imshow(case.image[z], aspect=aspect, **window)
            row[0].set_ylabel(f"slice {z + 1} of {len(case.image)}")
            noise = row[1].imshow(case.noise[z], aspect=aspect, cmap="RdBu_r", vmin=-limit, vmax=limit)
            for axis, predicted in ((row[2], case.clean[z]), (row[3], case.attacked[z])):
                axis.set_facecolor("black")  # shines through: white outlines need a dark image
                axis.imshow(case.image[z], aspect=aspect, alpha=0.6, **window)
                for value in range(1, int(max(case.label.max(), case.clean.max(), case.attacked.max())) + 1):
                    outline(axis, case.label[z] == value, "white", 0.9)
                    outline(axis, predicted == value, COLOURS[(value - 1) % (len(COLOURS) - 1) + 1], 1.5)
        titles = ("image", f"noise, ±{limit:.3g} {case.unit}", "prediction without noise", "prediction under noise")
        for axis, title in zip(axes[0], titles, strict=True):
            axis.set_title(title, fontsize=10)
        for axis in axes.flat:
            axis.set(xticks=[], yticks=[])
        figure.colorbar(noise, ax=axes[:, 1], location="bottom", shrink=0.8, label=case.unit)
        figure.suptitle(f"{case.title}\nwhite: the label's outline; coloured: the prediction's", fontsize=10)


def failing_slices(label: Array, predicted: Array) -> list[int]:
    """The slice with most wrong voxels, and the worst ones before and after it that are not its neighbours."""
    wrong = (label != predicted).sum((1, 2))
    worst = int(wrong.argmax())
    chosen = {worst}
    for part in (range(0, max(worst - 1, 0)), range(worst + 2, len(wrong))):
        if len(part) and wrong[part].max() > 0:
            chosen.add(part.start + int(wrong[part].argmax()))
    return sorted(chosen)


def _add_sigma(axis: Any, summary: Mapping[str, Any]) -> None:
    """Tell ε in σ per voxel, too, along the upper edge; cases of unequal size are told by their median."""
    last = max(summary["rows"], key=lambda row: row["eps"])
    sigma = last["units"]["rms"]
    if last["eps"] and sigma and summary["settings"]["unit"] != "rms":
        share = sigma / last["eps"]
        upper = axis.secondary_xaxis("top", functions=(lambda eps: eps * share, lambda found: found / share))
        upper.set_xlabel("σ per voxel (root mean square)" if summary["settings"]["norm"] == "L2" else "σ per voxel")


def unit_of(summary: Mapping[str, Any]) -> str:
    """What ε means, for an axis."""
    settings = summary["settings"]
    meaning = {
        "paper": f"{settings['norm']} norm on {settings['reference_elements']} elements",
        "l2": f"{settings['norm']} norm of the noise, σ",
        "rms": "σ per voxel",
        "raw": "raw intensity units per voxel",
    }
    return f"ε ({meaning[settings['unit']]})"
