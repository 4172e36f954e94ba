"""`ima_progress.png`: how margins and Dice move during a training."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from nnunet_ima.report.canvas import drawn_figure


def plot_progress(
    log: Mapping[str, Sequence[Any]],
    margins: Sequence[float] | None,
    *,
    largest: float | None,
    robust_eps: float,
    file: Path,
) -> None:
    """Draw attack statistics, clean and robust Dice and, of methods with margins, their histogram and growth.

    Args:
        log: nnU-Net's log with the series of `epoch_log`; None marks an epoch without a value.
        margins: margins of the training samples now; None: the method has none.
        largest: largest margin allowed.
        robust_eps: noise of the robust Dice.
        file: PNG to write.
    """
    rows = 1 if margins is None else 2
    with drawn_figure(file, (11, 4 * rows)) as figure:
        panels = figure.subplots(rows, 2).flat
        if margins is not None:
            limit = largest or max(margins)
            _draw_margins(panels[0], panels[1], log, margins, limit)
        _draw_attack(panels[2 * rows - 2], log)
        _draw_dice(panels[2 * rows - 1], log, robust_eps)


def _draw_margins(
    histogram: Any, growth: Any, log: Mapping[str, Sequence[Any]], margins: Sequence[float], limit: float
) -> None:
    histogram.hist(margins, bins=np.linspace(0, limit, 31), color="tab:blue")
    histogram.set(title="Margins of the training samples", xlabel="margin", ylabel="samples")

    mean, deviation, largest = (_floats(log[f"ima_margin_{key}"]) for key in ("mean", "sd", "max"))
    epochs = np.arange(1, len(mean) + 1)
    growth.plot(epochs, mean, label="mean")
    growth.fill_between(epochs, mean - deviation, mean + deviation, alpha=0.2, label="± sd")
    growth.plot(epochs, largest, "--", label="largest")
    growth.axhline(limit, color="grey", lw=0.8)
    growth.set(title="Margin growth", xlabel="epoch", ylabel="margin", ylim=(0, limit * 1.05))
    growth.legend()


def _draw_attack(attack: Any, log: Mapping[str, Sequence[Any]]) -> None:
    attacked, crossed = _floats(log["ima_attacked"]), _floats(log["ima_crossed"])
    epochs = np.arange(1, len(attacked) + 1)
    attack.plot(epochs, attacked, label="attacked, of all samples")
    attack.plot(epochs, crossed, label="crossed, of those attacked")
    attack.set(title="Attack", xlabel="epoch", ylabel="share", ylim=(0, 1.02))
    attack.legend()


def _draw_dice(dice: Any, log: Mapping[str, Sequence[Any]], robust_eps: float) -> None:
    clean, robust = _floats(log["mean_fg_dice"]), _floats(log["ima_robust_dice"])
    dice.plot(np.arange(1, len(clean) + 1), clean, label="clean")
    _draw_measured(dice, robust, f"PGD, ε = {robust_eps:g}")
    _draw_measured(dice, _floats(log["ima_average_dice"]), "clean, averaged weights")
    _draw_measured(dice, _floats(log["ima_average_robust_dice"]), f"PGD, ε = {robust_eps:g}, averaged weights")
    dice.set(title="Pseudo-Dice on validation patches", xlabel="epoch", ylabel="mean foreground Dice", ylim=(0, 1))
    dice.legend()


def _draw_measured(dice: Any, values: np.ndarray, label: str) -> None:
    measured = np.isfinite(values)
    if measured.any():
        dice.plot(np.arange(1, len(values) + 1)[measured], values[measured], "o-", label=label)


def _floats(values: Sequence[Any]) -> np.ndarray:
    return np.array([np.nan if value is None else float(value) for value in values])
