"""A contact sheet: one scan under every disturbance (rows) in every severity (columns)."""

from __future__ import annotations

from pathlib import Path
from textwrap import wrap
from typing import Any

import numpy as np
from PIL import Image
from scipy.ndimage import binary_erosion

from nnunet_ima.report.canvas import drawn_figure
from nnunet_ima.shift import Disturbance, Scan, disturbances_for

Array = np.ndarray[Any, Any]
TILE, LABELS, HEAD = 0.85, 1.5, 0.3  # inches: edge of a tile, width of the rows' labels, height of the title
PICTURE = 0.84  # of a tile; its heading is above
OUTLINE = (0.9, 0.1, 0.1)
COLOURS = 128  # of the PNG: grey values, and the outline's
CT_WINDOW = (-160.0, 240.0)  # HU


def draw_contact_sheet(scan: Scan, file: Path, title: str = "", seed: int = 0) -> None:
    """Draw the slice through the middle of the label map, with its outline, as the voxels lie in the disturbed file.

    Args:
        scan: what is disturbed; its first channel is shown.
        file: PNG to write.
        title: of the whole figure.
        seed: of the draws; the severities of a row share theirs.
    """
    rows = disturbances_for(scan)
    window = CT_WINDOW if scan.modality == "CT" else tuple(np.percentile(scan.channels[0], (1, 99.5)).tolist())
    with drawn_figure(file, (6 * TILE + LABELS, TILE * len(rows) + HEAD)) as figure:
        figure.set_layout_engine("none")
        axis = figure.add_axes((0, 0, 1, 1))  # one for all tiles, which are its units: a hundred would take long
        for row, disturbance in enumerate(rows):
            axis.text(-0.1, row + 0.5, _label(disturbance), fontsize=6, ha="right", va="center")
            for severity in range(6):
                parameters = disturbance.draw(severity, scan, np.random.default_rng(seed))
                _show(axis, (row, severity), disturbance.apply(scan, parameters), scan.slice_axis, window)
                heading = f"{disturbance.severities[severity - 1]:g}" if severity else "undisturbed"
                axis.text(severity + 0.5, row + 0.12, heading, fontsize=6, ha="center")
        axis.text(3 - LABELS / TILE / 2, -0.1, title, fontsize=8, ha="center")
        axis.set(xlim=(-LABELS / TILE, 6), ylim=(len(rows), -HEAD / TILE))
        axis.set_axis_off()
    with Image.open(file) as drawn:
        drawn.convert("RGB").quantize(COLOURS, dither=Image.Dither.NONE).save(file, optimize=True)


def _label(disturbance: Disturbance) -> str:
    return "\n".join([disturbance.name.upper(), *wrap(disturbance.unit, 28)])


def _show(axis: Any, tile: tuple[int, int], scan: Scan, across: int, window: tuple[float, ...]) -> None:
    """Put the slice across an axis of the array that lies in the middle of the label map into a tile (row, column)."""
    height, width = (scan.shape[other] * scan.spacing[other] for other in range(3) if other != across)
    larger = max(height, width) * 2 / PICTURE
    middle, below = tile[1] + 0.5, tile[0] + 1 - PICTURE / 2
    extent = (middle - width / larger, middle + width / larger, below + height / larger, below - height / larger)
    axis.imshow(_picture(scan, across, window), extent=extent, aspect="auto")


def _picture(scan: Scan, across: int, window: tuple[float, ...]) -> Array:
    """The slice (height, width, 3) in the middle of the label map, or of the volume where it is empty."""
    marked = np.flatnonzero((scan.label > 0).any(tuple(other for other in range(3) if other != across)))
    place = int(np.median(marked)) if marked.size else scan.shape[across] // 2
    low, high = window
    grey = np.clip((scan.channels[0].take(place, across) - low) / max(high - low, 1e-12), 0, 1)
    picture = np.repeat(grey[..., None], 3, axis=-1)
    mask = scan.label.take(place, across) > 0
    picture[mask & ~binary_erosion(mask, border_value=1)] = OUTLINE
    return picture
