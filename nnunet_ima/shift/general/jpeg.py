"""JPEG compression: each slice is exported to 8 bits over its channel's range, compressed, and read again."""

from __future__ import annotations

from collections.abc import Mapping
from io import BytesIO
from typing import Any

import numpy as np
from numpy.random import Generator
from PIL import Image

from nnunet_ima.shift.disturbance import Disturbance, Parameters
from nnunet_ima.shift.general.grey_levels import quantised
from nnunet_ima.shift.scan import Array, Scan


def _draw(severity: float, scan: Scan, rng: Generator) -> Parameters:
    return {"quality": int(severity), "axis": scan.slice_axis}


def _apply(scan: Scan, parameters: Mapping[str, Any]) -> Scan:
    values = np.empty_like(scan.channels)
    for channel, exported in zip(scan.channels, values, strict=True):
        grey, step, low = quantised(channel, 256)
        slices = np.moveaxis(grey.astype(np.uint8), parameters["axis"], 0)
        read = np.stack([_compressed(image, parameters["quality"]) for image in slices])
        exported[:] = np.moveaxis(read, 0, parameters["axis"]) * step + low
    return scan.with_channels(values)


def _compressed(image: Array, quality: int) -> Array:
    """An 8-bit image (height, width), as float32."""
    file = BytesIO()
    Image.fromarray(np.ascontiguousarray(image)).save(file, "JPEG", quality=quality)
    return np.asarray(Image.open(file), np.float32)


JPEG = Disturbance(
    name="jpeg",
    modalities=("any",),
    changes="intensity",
    severities=(95, 80, 60, 30, 10),
    unit="JPEG quality",
    reference="calibrated: 95 to 80 are usual in exports; ImageNet-C (Hendrycks & Dietterich 2019): 25 to 7",
    drawing=_draw,
    applying=_apply,
)
