"""Two channels are interchanged in a part of the slices, or in all: slices were sorted into the wrong series."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from numpy.random import Generator

from nnunet_ima.shift.disturbance import Disturbance, Parameters
from nnunet_ima.shift.scan import Scan
from nnunet_ima.shift.several_channels import draw_slices, lacks_channels, part_of


def _draw(severity: float, scan: Scan, rng: Generator) -> Parameters:
    pair = rng.choice(len(scan.channels), 2, replace=False).tolist()
    return {"channels": pair, "slices": draw_slices(severity, scan, rng)}


def _apply(scan: Scan, parameters: Mapping[str, Any]) -> Scan:
    pair, values = parameters["channels"], scan.channels.copy()
    part = part_of(values, parameters["slices"], scan)
    part[pair] = part[pair[::-1]]
    return scan.with_channels(values)


SWAPPED_CHANNELS = Disturbance(
    name="swapped-channels",
    modalities=("any",),
    changes="intensity",
    severities=(0.2, 0.4, 0.6, 0.8, 1),
    unit="of the slices",
    reference="calibrated: a fifth to all",
    drawing=_draw,
    applying=_apply,
    lacking=lacks_channels,
)
