"""A disturbed scan as an export would write it: on no more grey levels than before."""

from __future__ import annotations

import numpy as np

from nnunet_ima.shift.scan import Scan


def exported(disturbed: Scan, scan: Scan) -> Scan:
    """Return a disturbed scan on at most as many grey levels as the scan that it was made of.

    Arithmetic leaves more of them than any scanner writes, and would betray every disturbance.
    """
    channels = []
    for channel, original in zip(disturbed.channels, scan.channels, strict=True):
        levels = len(np.unique(original))
        if len(np.unique(channel)) > levels:
            low, high = channel.min(), channel.max()
            width = (high - low) / max(1, levels - 1)
            channel = low + np.rint((channel - low) / width) * width
        channels.append(channel)
    return disturbed.with_channels(np.stack(channels))
