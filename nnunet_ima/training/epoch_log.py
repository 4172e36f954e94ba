"""What an epoch of a robust training counts, logs and prints."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

import numpy as np

from nnunet_ima.ima.margins import Sample

# one value per epoch in nnU-Net's logger; the prefix is this package's
SERIES = (
    "ima_margin_mean",
    "ima_margin_sd",
    "ima_margin_max",
    "ima_attacked",
    "ima_crossed",
    "ima_forward",
    "ima_backward",
    "ima_seconds",
    "ima_robust_dice",
    "ima_average_dice",
    "ima_average_robust_dice",
)
MEASURED = SERIES[-3:]
"""Those that validation adds, in the epochs that measure them."""


@dataclass
class EpochTally:
    """Counts of one epoch; adding two gives the counts of two ranks."""

    samples: int = 0
    attacked: int = 0
    crossed: int = 0
    forward: int = 0
    backward: int = 0
    steps: int = 0
    seconds: float = 0.0

    def add(self, samples: int, log: Mapping[str, float], seconds: float) -> None:
        """Count one training step, with what its method says (see `methods.base.Step`)."""
        self.samples += samples
        self.steps += 1
        self.seconds += seconds
        self.attacked += int(log.get("attacked", 0))
        self.crossed += int(log.get("crossed", 0))
        self.forward += int(log["forward"])
        self.backward += int(log["backward"])

    def __add__(self, other: EpochTally) -> EpochTally:
        """Merge the counts of another rank."""
        return EpochTally(*(getattr(self, field.name) + getattr(other, field.name) for field in fields(self)))

    def series(self, margins: Mapping[Sample, float] | None) -> dict[str, float | None]:
        """Values of the epoch for the logger, but for those that validation adds; passes are per sample."""
        values = np.array(list(margins.values())) if margins else None
        return {
            "ima_margin_mean": None if values is None else float(values.mean()),
            "ima_margin_sd": None if values is None else float(values.std()),
            "ima_margin_max": None if values is None else float(values.max()),
            "ima_attacked": self.attacked / max(1, self.samples),
            "ima_crossed": self.crossed / max(1, self.attacked),
            "ima_forward": self.forward / max(1, self.samples),
            "ima_backward": self.backward / max(1, self.samples),
            "ima_seconds": self.seconds / max(1, self.steps),
        }

    def describe(self, latest: Mapping[str, Any], robust_eps: float) -> str:
        """The epoch in one line."""
        margin = ""
        if latest["ima_margin_mean"] is not None:
            margin = (
                f"margin {latest['ima_margin_mean']:.4g} ± {latest['ima_margin_sd']:.4g}, "
                f"largest {latest['ima_margin_max']:.4g}; "
            )
        return (
            f"{margin}attacked {latest['ima_attacked']:.0%}, of these crossed {latest['ima_crossed']:.0%}; "
            f"passes per sample {latest['ima_forward']:.1f} forward, {latest['ima_backward']:.1f} backward; "
            f"{latest['ima_seconds']:.2f} s per iteration"
            + _measured("pseudo Dice", latest["ima_robust_dice"], robust_eps)
            + _measured("of the averaged weights", latest["ima_average_dice"])
            + _measured("of the averaged weights", latest["ima_average_robust_dice"], robust_eps)
        )


def _measured(what: str, dice: float | None, eps: float = 0) -> str:
    return "" if dice is None else f"; {what}{f' at ε = {eps:g}' if eps else ''}: {dice:.4f}"


def register_series(logging: dict[str, list[Any]]) -> None:
    """Make nnU-Net's logger accept our series.

    Its progress plot cuts every series to the shortest, so one that a stored log lacks is padded to the others' length.
    """
    length = len(logging["mean_fg_dice"])
    for key in SERIES:
        series = logging.setdefault(key, [])
        series += [None] * (length - len(series))
