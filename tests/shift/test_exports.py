"""Exports and sorted series: grey levels, JPEG, and channels that were mixed up or left out."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from nnunet_ima.shift import Scan, find_disturbance

SEVERITIES = range(1, 6)


def disturb(name: str, scan: Scan, severity: int, seed: int = 0) -> Scan:
    disturbance = find_disturbance(name)
    return disturbance.apply(scan, disturbance.draw(severity, scan, np.random.default_rng(seed)))


@pytest.mark.parametrize("severity", SEVERITIES)
def test_so_many_grey_levels_are_left_over_the_same_range(severity: int, scan_of: Callable[..., Scan]) -> None:
    levels = find_disturbance("grey-levels").severities[severity - 1]
    ramp = np.linspace(-1000, 2000, 10 * 20 * 20).reshape(10, 20, 20)
    scan = scan_of(ramp, "CT")
    exported = disturb("grey-levels", scan, severity).channels
    assert len(np.unique(exported)) == levels
    assert (exported.min(), exported.max()) == (-1000, 2000)
    assert np.abs(exported - scan.channels).max() == pytest.approx(3000 / (levels - 1) / 2, rel=0.01)


def test_jpeg_loses_more_than_8_bits_and_less_than_everything(make_scan: Callable[..., Scan]) -> None:
    scan = make_scan("MR", channels=2, shape=(40, 40, 8))
    eight_bits = np.abs(disturb("grey-levels", scan, 1).channels - scan.channels).mean()
    losses = [np.abs(disturb("jpeg", scan, severity).channels - scan.channels).mean() for severity in SEVERITIES]
    assert losses[0] > eight_bits
    assert losses[-1] < scan.channels.std() / 4


@pytest.mark.parametrize("severity", SEVERITIES)
def test_channels_are_swapped_or_missing_in_some_slices(severity: int, make_scan: Callable[..., Scan]) -> None:
    scan = make_scan("MR", channels=2, shape=(24, 20, 10))
    share = find_disturbance("swapped-channels").severities[severity - 1]
    for seed in range(4):
        swapped = disturb("swapped-channels", scan, severity, seed).channels
        elsewhere = (swapped != scan.channels).any((0, 2, 3))
        assert elsewhere.mean() == pytest.approx(share)
        np.testing.assert_array_equal(swapped[:, elsewhere], scan.channels[::-1][:, elsewhere])
        missing = disturb("missing-channel", scan, severity, seed).channels
        (channel,) = np.flatnonzero((missing != scan.channels).any((1, 2, 3)))
        emptied = (missing[channel] == scan.channels[channel].min()).all((1, 2))
        assert emptied.mean() == pytest.approx(share)
        np.testing.assert_array_equal(missing[channel, ~emptied], scan.channels[channel, ~emptied])
