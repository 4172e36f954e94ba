"""Noise of the receiver: Gaussian in both parts of the complex signal, Rician in its magnitude.

σ is that of the Gaussian noise, relative to the mean of the foreground: 0.05 is a signal-to-noise ratio of 20. In air
the magnitude's standard deviation is 0.655 σ; where signal is strong, it is σ. Voxels that were set to 0 after the
acquisition, as outside of a stripped skull, get noise like air: nobody can tell them apart.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.random import Generator

from nnunet_ima.shift.disturbance import Disturbance, Parameters
from nnunet_ima.shift.draws import draw_seed
from nnunet_ima.shift.mr.signal import floor_of, mean_signal
from nnunet_ima.shift.scan import Scan


def _draw(severity: float, scan: Scan, rng: Generator) -> Parameters:
    return {"sigma": [severity * mean_signal(channel) for channel in scan.channels], "seed": draw_seed(rng)}


def _apply(scan: Scan, parameters: Mapping[str, Any]) -> Scan:
    rng = np.random.default_rng(parameters["seed"])
    noisy = np.empty_like(scan.channels)
    for channel, sigma, values in zip(scan.channels, parameters["sigma"], noisy, strict=True):
        floor = floor_of(channel)
        real, imaginary = sigma * rng.standard_normal((2, *channel.shape), np.float32)
        values[:] = np.hypot(channel - floor + real, imaginary) + floor
    return scan.with_channels(noisy)


RICIAN_NOISE = Disturbance(
    name="rician-noise",
    modalities=("MR",),
    changes="intensity",
    severities=(0.03, 0.06, 0.1, 0.15, 0.2),
    unit="σ / mean of the foreground",
    reference="Gudbjartsson & Patz 1995 for the distribution; BrainWeb's 3 to 9 % of a tissue's signal, and beyond",
    drawing=_draw,
    applying=_apply,
)
