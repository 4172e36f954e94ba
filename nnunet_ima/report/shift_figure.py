"""Mean Dice under realistic disturbances as a map: a row for each disturbance, a column for each severity.

Where the input check has looked, the share of the scans that it flags stands below.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from nnunet_ima.report.canvas import drawn_figure


def draw_shift(summary: Mapping[str, Any], file: Path) -> None:
    """Draw a map for each model side by side.

    Args:
        summary: see `segmentation.summary.summarise`; it holds disturbances.
        file: PNG to write.
    """
    rows = summary["shift"]
    models = list(dict.fromkeys(row["model"] for row in rows))
    names = list(dict.fromkeys(row["disturbance"] for row in rows))
    severities = sorted({row["severity"] for row in rows})
    checked = any(row.get("flagged") is not None for row in rows)
    size = (2.2 + len(models) * (1.2 + 0.6 * len(severities)), 1.2 + (0.42 if checked else 0.3) * len(names))
    with drawn_figure(file, size) as figure:
        axes = figure.subplots(1, len(models), squeeze=False, sharey=True)[0]
        for axis, model in zip(axes, models, strict=True):
            values = np.full((len(names), len(severities)), np.nan)
            flags: dict[tuple[int, int], float] = {}
            for row in rows:
                if row["model"] == model:
                    place = names.index(row["disturbance"]), severities.index(row["severity"])
                    values[place] = row["mean_dice"]
                    if row.get("flagged") is not None:
                        flags[place] = row["flagged"]
            image = axis.imshow(values, cmap="cividis", vmin=0, vmax=1, aspect="auto")
            for (line, column), value in np.ndenumerate(values):
                if np.isfinite(value):
                    ink = "black" if value > 0.6 else "white"
                    told = f"\nflagged {flags[line, column]:.0%}" if (line, column) in flags else ""
                    size_of_text = 6 if told else 8
                    axis.text(
                        column, line, f"{value:.2f}{told}", ha="center", va="center", fontsize=size_of_text, color=ink
                    )
            axis.set_xticks(range(len(severities)), severities)
            axis.set(title=model, xlabel="severity")
        axes[0].set_yticks(range(len(names)), names)
        figure.colorbar(image, ax=axes, label="mean Dice", shrink=0.8)
