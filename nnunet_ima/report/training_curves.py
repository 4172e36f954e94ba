"""Figures of a classifier's training: accuracy curves (supplement, figures 1, 2, 4) and margins (figure 3)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from nnunet_ima.report.canvas import drawn_figure


def plot_curves(log: Sequence[Mapping[str, Any]], method: str, robust_eps: float, file: Path) -> None:
    """Draw loss, validation accuracy with and without noise, and the margins if there are any.

    Args:
        log: a row for each epoch, see `classification.fit`.
        method: name of the method.
        robust_eps: noise of the robust accuracy.
        file: PNG to write.
    """
    epochs = [row["epoch"] for row in log]
    margins = all("margin_mean" in row for row in log)
    with drawn_figure(file, (12 if margins else 8, 3.6)) as figure:
        loss, accuracy, *rest = figure.subplots(1, 3 if margins else 2)
        loss.plot(epochs, [row["loss"] for row in log], ".-")
        loss.set(title=f"{method}: training loss", xlabel="epoch", ylabel="loss")
        accuracy.plot(epochs, [row["validation"] for row in log], ".-", label="clean")
        accuracy.plot(epochs, [row["validation_robust"] for row in log], ".-", label=f"PGD, ε = {robust_eps:g}")
        accuracy.set(title="Validation accuracy", xlabel="epoch", ylabel="accuracy", ylim=(0, 1.02))
        accuracy.legend(loc="lower right")
        for growth in rest:
            mean, deviation = (np.array([row[f"margin_{key}"] for row in log]) for key in ("mean", "sd"))
            growth.plot(epochs, mean, label="mean")
            growth.fill_between(epochs, mean - deviation, mean + deviation, alpha=0.2, label="± sd")
            growth.plot(epochs, [row["margin_max"] for row in log], "--", label="largest")
            growth.set(title="Margins of the training images", xlabel="epoch", ylabel="margin", ylim=(0, None))
            growth.legend(loc="upper left")


def plot_margins(margins: Sequence[float], eps_max: float, suggested: float, file: Path) -> None:
    """Draw the histogram of margins, with the noise level that it suggests for plain adversarial training.

    Args:
        margins: of the training images.
        eps_max: the largest one allowed.
        suggested: see `classification.fit.suggested_eps`.
        file: PNG to write.
    """
    with drawn_figure(file, (6, 4)) as figure:
        axis = figure.subplots()
        axis.hist(margins, bins=np.linspace(0, eps_max, 41).tolist(), color="tab:blue")
        axis.axvline(suggested, color="tab:red", label=f"median: try adv{suggested:.3g}")
        axis.set(title="Margins of the training images", xlabel="margin", ylabel="images")
        axis.legend()
