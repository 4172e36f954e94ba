"""Herringbone stripes all over the image: a spark or a loose cable spoils one point of k-space (TorchIO)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.random import Generator

from nnunet_ima.shift.disturbance import Disturbance, Parameters
from nnunet_ima.shift.mr.signal import as_magnitude, floor_of, mean_signal
from nnunet_ima.shift.scan import Scan
from nnunet_ima.shift.through_torchio import through_torchio, torchio

FROM_THE_CENTRE = (0.1, 0.4)  # of the band, along both axes of the slice: stripes some pixels wide


def _draw(severity: float, scan: Scan, rng: Generator) -> Parameters:
    position = [(size // 2 + 0.5) / size for size in scan.shape]  # the middle of k-space
    for axis in scan.in_plane:
        position[axis] += float(rng.choice((-1, 1)) * rng.uniform(*FROM_THE_CENTRE))
    return {"position": position, "amplitude": [severity * mean_signal(channel) for channel in scan.channels]}


def _apply(scan: Scan, parameters: Mapping[str, Any]) -> Scan:
    striped = np.empty_like(scan.channels)
    for channel, amplitude, values in zip(scan.channels, parameters["amplitude"], striped, strict=True):
        signal = channel - floor_of(channel)
        # TorchIO counts in the largest value of k-space, which is the sum of the signal
        spike = torchio().transforms.Spike(
            spikes_positions=np.array([parameters["position"][::-1]]),
            intensity=amplitude / (float(signal.mean()) or 1.0),
        )
        values[:] = through_torchio(spike, signal[None], scan.spacing)[0] + floor_of(channel)
    return scan.with_channels(as_magnitude(striped, scan.channels))


SPIKES = Disturbance(
    name="spikes",
    modalities=("MR",),
    changes="intensity",
    severities=(0.05, 0.1, 0.2, 0.3, 0.5),
    unit="amplitude of the stripes / mean of the foreground",
    reference="calibrated: from stripes that are just seen to stripes as strong as the anatomy",
    drawing=_draw,
    applying=_apply,
)
