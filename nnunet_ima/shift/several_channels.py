"""What disturbances of single channels share: a part of the slices, and the need for several channels."""

from __future__ import annotations

from numpy.random import Generator

from nnunet_ima.shift.scan import Array, Scan


def draw_slices(share: float, scan: Scan, rng: Generator) -> list[int]:
    """First slice and the one after the last, of a share of all slices at one end of the volume; one at least."""
    slices = scan.shape[scan.slice_axis]
    count = max(1, round(share * slices))
    return [0, count] if rng.random() < 0.5 else [slices - count, slices]


def part_of(channels: Array, slices: list[int], scan: Scan) -> Array:
    """A view of these slices of all channels."""
    where = [slice(None)] * 4
    where[scan.slice_axis + 1] = slice(*slices)
    part: Array = channels[tuple(where)]
    return part


def lacks_channels(scan: Scan) -> str:
    """Why it cannot happen; "" if it can."""
    return "" if len(scan.channels) > 1 else "the scan has one channel, two are needed"
