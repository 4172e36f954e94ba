"""`ima_progress.png`: how margins and Dice move during a training."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from nnunet_ima.report.canvas import drawn_figure


def plot_progress(
    log: Mapping[str, Sequence[Any]], margins: Sequence[float], *, eps_max: float, robust_eps: float, file: Path
) -> None:
    """Draw margin histogram, margin growth, attack statistics, and clean and robust Dice.

    Args:
        log: nnU-Net's log with the series of `epoch_log`; None marks an epoch without a value.
        margins: margins of the training cases now.
        eps_max: largest margin allowed.
        robust_eps: noise of the robust Dice.
        file: PNG to write.
    """
    with drawn_figure(file, (11, 8)) as figure:
        histogram, growth, attack, dice = figure.subplots(2, 2).flat

        histogram.hist(margins, bins=np.linspace(0, eps_max, 31), color="tab:blue")
        histogram.set(title="Margins of the training cases", xlabel="margin", ylabel="cases")

        mean, deviation, largest = (_floats(log[f"ima_margin_{key}"]) for key in ("mean", "sd", "max"))
        epochs = np.arange(1, len(mean) + 1)
        growth.plot(epochs, mean, label="mean")
        growth.fill_between(epochs, mean - deviation, mean + deviation, alpha=0.2, label="± sd")
        growth.plot(epochs, largest, "--", label="largest")
        growth.axhline(eps_max, color="grey", lw=0.8)
        growth.set(title="Margin growth", xlabel="epoch", ylabel="margin", ylim=(0, eps_max * 1.05))
        growth.legend()

        attack.plot(epochs, _floats(log["ima_attacked"]), label="attacked, of all samples")
        attack.plot(epochs, _floats(log["ima_crossed"]), label="crossed, of those attacked")
        attack.set(title="Attack", xlabel="epoch", ylabel="share", ylim=(0, 1.02))
        attack.legend()

        clean, robust = _floats(log["mean_fg_dice"]), _floats(log["ima_robust_dice"])
        dice.plot(np.arange(1, len(clean) + 1), clean, label="clean")
        measured = np.isfinite(robust)
        dice.plot(np.arange(1, len(robust) + 1)[measured], robust[measured], "o-", label=f"PGD, ε = {robust_eps:g}")
        dice.set(title="Pseudo-Dice on validation patches", xlabel="epoch", ylabel="mean foreground Dice", ylim=(0, 1))
        dice.legend()


def _floats(values: Sequence[Any]) -> np.ndarray:
    return np.array([np.nan if value is None else float(value) for value in values])
