"""Signal of MR channels, whose units are the scanner's own: what severities are relative to."""

from __future__ import annotations

import numpy as np

from nnunet_ima.shift.scan import Array

FOREGROUND = 0.1  # of the 99th percentile; below lies air


def floor_of(channel: Array) -> float:
    """The value of no signal: 0, or the smallest value where a channel has been shifted below 0."""
    return min(0.0, float(channel.min()))


def foreground_of(channel: Array) -> Array:
    """Mask of what gives signal; all False where nothing does.

    Args:
        channel: (Z, Y, X).
    """
    signal = channel - floor_of(channel)
    foreground: Array = signal > FOREGROUND * np.percentile(signal, 99)
    return foreground


def mean_signal(channel: Array) -> float:
    """Mean of the foreground above the floor; 0 where there is no signal.

    Args:
        channel: (Z, Y, X).
    """
    foreground = channel[foreground_of(channel)]
    return float(foreground.mean()) - floor_of(channel) if foreground.size else 0.0


def as_magnitude(values: Array, channels: Array) -> Array:
    """Magnitudes, as scanners store them: what a disturbance has driven below the floor is reflected there.

    Args:
        values: disturbed (C, Z, Y, X).
        channels: as they were; they tell the floor.
    """
    floors = np.array([floor_of(channel) for channel in channels], channels.dtype).reshape(-1, 1, 1, 1)
    magnitudes: Array = np.abs(values - floors) + floors
    return magnitudes
