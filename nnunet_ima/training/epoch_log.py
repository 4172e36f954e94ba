"""What an epoch of IMA counts, logs and prints."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

import numpy as np

from nnunet_ima.ima.bpgd import BoundarySamples
from nnunet_ima.ima.margins import Sample

# one value per epoch in nnU-Net's logger
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
)


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

    def add(self, samples: int, found: BoundarySamples | None, seconds: float) -> None:
        """Count one training step."""
        self.samples += samples
        self.steps += 1
        self.seconds += seconds
        if found is not None:
            self.attacked += len(found.x)
            self.crossed += int(found.crossed.sum())
            self.forward += int(found.forward.sum())
            self.backward += int(found.backward.sum())

    def __add__(self, other: EpochTally) -> EpochTally:
        """Merge the counts of another rank."""
        return EpochTally(*(getattr(self, field.name) + getattr(other, field.name) for field in fields(self)))

    def series(self, margins: Mapping[Sample, float]) -> dict[str, float]:
        """Values of the epoch for the logger, but for the robust Dice, which validation adds."""
        values = np.array(list(margins.values()))
        return {
            "ima_margin_mean": float(values.mean()),
            "ima_margin_sd": float(values.std()),
            "ima_margin_max": float(values.max()),
            "ima_attacked": self.attacked / max(1, self.samples),
            "ima_crossed": self.crossed / max(1, self.attacked),
            "ima_forward": self.forward / max(1, self.attacked),
            "ima_backward": self.backward / max(1, self.attacked),
            "ima_seconds": self.seconds / max(1, self.steps),
        }

    def describe(self, latest: Mapping[str, Any], robust_eps: float) -> str:
        """The epoch in one line."""
        robust = latest["ima_robust_dice"]
        return (
            f"IMA margin {latest['ima_margin_mean']:.4g} ± {latest['ima_margin_sd']:.4g}, "
            f"largest {latest['ima_margin_max']:.4g}; attacked {latest['ima_attacked']:.0%}, "
            f"of these crossed {latest['ima_crossed']:.0%}; "
            f"passes per attacked sample {latest['ima_forward']:.1f} forward, {latest['ima_backward']:.1f} backward; "
            f"{latest['ima_seconds']:.2f} s per iteration"
            + ("" if robust is None else f"; pseudo Dice at ε = {robust_eps:g}: {robust:.4f}")
        )


def register_series(logging: dict[str, list[Any]]) -> None:
    """Make nnU-Net's logger accept our series.

    Its progress plot cuts every series to the shortest, so one that a stored log lacks is padded to the others' length.
    """
    length = len(logging["mean_fg_dice"])
    for key in SERIES:
        series = logging.setdefault(key, [])
        series += [None] * (length - len(series))
