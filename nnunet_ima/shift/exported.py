"""A disturbed scan as an export would write it: on as many grey levels as before."""

from __future__ import annotations

import numpy as np

from nnunet_ima.shift.scan import Scan


def exported(disturbed: Scan, scan: Scan) -> Scan:
    """Return a disturbed scan on at most as many grey levels as the scan that it was made of.

    Arithmetic leaves more of them than any scanner writes, and would betray every disturbance. A scan of which every
    second voxel has a value of its own was stored as decimals, and so is what is made of it.
    """
    if disturbed is scan:
        return scan
    channels = []
    for channel, original in zip(disturbed.channels, scan.channels, strict=True):
        levels = len(np.unique(original))
        if levels < original.size / 2 and len(np.unique(channel)) >= levels:
            low, high = channel.min(), channel.max()
            width = (high - low) / max(1, levels - 1) or 1.0
            channel = low + np.rint((channel - low) / width) * width
        channels.append(channel)
    return disturbed.with_channels(np.stack(channels))
