"""A channel is missing in a part of the slices, or in all: a sequence that covers less, or was not acquired."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from numpy.random import Generator

from nnunet_ima.shift.disturbance import Disturbance, Parameters
from nnunet_ima.shift.scan import Scan
from nnunet_ima.shift.several_channels import draw_slices, lacks_channels, part_of


def _draw(severity: float, scan: Scan, rng: Generator) -> Parameters:
    return {"channel": int(rng.integers(len(scan.channels))), "slices": draw_slices(severity, scan, rng)}


def _apply(scan: Scan, parameters: Mapping[str, Any]) -> Scan:
    """Fill the channel with its smallest value, as resampling does where there is no image."""
    values, channel = scan.channels.copy(), parameters["channel"]
    part_of(values, parameters["slices"], scan)[channel] = scan.channels[channel].min()
    return scan.with_channels(values)


MISSING_CHANNEL = Disturbance(
    name="missing-channel",
    modalities=("any",),
    changes="intensity",
    severities=(0.2, 0.4, 0.6, 0.8, 1),
    unit="of the slices",
    reference="calibrated: a fifth to all",
    drawing=_draw,
    applying=_apply,
    lacking=lacks_channels,
    settles=True,
)
