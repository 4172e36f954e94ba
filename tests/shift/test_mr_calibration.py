"""MR disturbances are as strong as their severities say, measured on images whose answer is known."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from nnunet_ima.shift import Scan, find_disturbance

Array = np.ndarray[Any, Any]
ScanOf = Callable[..., Scan]
SEVERITIES = range(1, 6)


def disturb(name: str, scan: Scan, severity: int, seed: int = 0) -> tuple[Array, dict[str, Any], float]:
    """Disturbed channels, the parameters, and the severity in its unit."""
    disturbance = find_disturbance(name)
    parameters = disturbance.draw(severity, scan, np.random.default_rng(seed))
    return disturbance.apply(scan, parameters).channels, parameters, disturbance.severities[severity - 1]


@pytest.fixture
def cube(scan_of: ScanOf) -> Scan:
    """A cube with a signal of 200 in air."""
    image = np.zeros((20, 40, 40))
    image[4:16, 8:32, 8:32] = 200
    return scan_of(image, "MR")


@pytest.mark.parametrize("severity", SEVERITIES)
def test_rician_noise(cube: Scan, severity: int) -> None:
    (noisy,), _, asked = disturb("rician-noise", cube, severity)
    sigma = asked * 200
    assert noisy[4:16, 8:32, 8:32].std() == pytest.approx(sigma, rel=0.04)  # where signal is strong: Gaussian
    air = noisy[:, :6]
    assert air.mean() == pytest.approx(sigma * np.sqrt(np.pi / 2), rel=0.03)  # Rayleigh
    assert air.std() == pytest.approx(sigma * np.sqrt(2 - np.pi / 2), rel=0.03)


def test_rician_noise_of_each_channel_is_relative_to_its_own_signal(cube: Scan) -> None:
    both = cube.with_channels(np.concatenate([cube.channels, 10 * cube.channels]))
    both = Scan(both.channels, cube.label, cube.affine, "MR")
    noisy, parameters, asked = disturb("rician-noise", both, 3)
    assert parameters["sigma"] == pytest.approx([asked * 200, asked * 2000])
    assert noisy[1, 4:16, 8:32, 8:32].std() == pytest.approx(asked * 2000, rel=0.04)


def test_images_shifted_below_0_are_disturbed_as_if_they_were_not(cube: Scan) -> None:
    lowered = cube.with_channels(cube.channels - 50)
    for name in ("rician-noise", "bias-field", "motion", "ghosting", "spikes", "resolution", "gamma", "blur"):
        expected, found = disturb(name, cube, 3)[0], disturb(name, lowered, 3)[0]
        np.testing.assert_allclose(found, expected - 50, atol=2e-3, err_msg=name)


@pytest.mark.parametrize("severity", SEVERITIES)
def test_bias_field_has_the_range_that_brainweb_quotes(cube: Scan, severity: int) -> None:
    (biased,), _, percent = disturb("bias-field", cube, severity, seed=severity)
    field = biased[4:16, 8:32, 8:32] / 200
    assert field.min() == pytest.approx(1 - percent / 200, rel=1e-3)
    assert field.max() == pytest.approx(1 + percent / 200, rel=1e-3)
    assert np.abs(np.diff(field, axis=1)).max() < 0.3 * np.ptp(field)


def test_motion_leaves_the_anatomy_where_its_label_is(cube: Scan) -> None:
    for seed in range(4):
        (moved,), parameters, _ = disturb("motion", cube, 3, seed)
        assert len(parameters["millimetres"]) == len(parameters["degrees"]) == len(parameters["times"]) == 6
        assert np.linalg.norm(parameters["millimetres"], axis=1) == pytest.approx(6)
        assert np.abs(parameters["degrees"]).sum(1) == pytest.approx(3)
        inside = moved > 100
        centre = [positions.mean() for positions in np.nonzero(inside)]
        assert centre == pytest.approx([9.5, 19.5, 19.5], abs=1)
        assert inside[6:14, 11:29, 11:29].mean() > 0.97


def test_the_movement_that_matters_is_during_the_middle_of_k_space(scan_of: ScanOf) -> None:
    scan = scan_of(np.random.default_rng(0).uniform(0, 100, (1, 32, 32)), "MR")
    changes = []
    for time in (0.0, 0.1, 0.3, 0.45):
        parameters = {"millimetres": [[0, 3, 0]], "degrees": [[0, 0, 0]], "times": [time], "phase_axis": 1}
        moved = find_disturbance("motion").apply(scan, parameters).channels
        changes.append(np.abs(moved - scan.channels).mean())
    assert changes[0] < 1e-4
    assert (np.diff(changes) > 0).all()


@pytest.mark.parametrize("severity", SEVERITIES)
def test_ghosts_lie_a_share_of_the_field_away_and_are_as_bright_as_asked(scan_of: ScanOf, severity: int) -> None:
    image = np.zeros((4, 48, 48))
    image[:, 24, 24] = 1000
    seen = set()
    for seed in range(6):
        (ghosted,), parameters, asked = disturb("ghosting", scan_of(image, "MR"), severity, seed)
        ghosts, axis = parameters["ghosts"], parameters["phase_axis"]
        line = ghosted.take(24, 3 - axis)[2]
        place = (24 + 48 // ghosts) % 48
        assert line[place] / 1000 == pytest.approx(asked, rel=0.15)
        assert line[(place + 5) % 48] < 0.1 * line[place]
        seen.add((ghosts, axis))
    assert len(seen) > 2


@pytest.mark.parametrize("severity", SEVERITIES)
def test_stripes_of_a_spike_have_the_amplitude_that_was_asked_for(scan_of: ScanOf, severity: int) -> None:
    for shape in ((6, 33, 40), (5, 32, 31)):
        image = np.full((2, *shape), 100.0)
        image[1, :, :, 10:] = 0  # mostly air, which does not count
        striped, _, asked = disturb("spikes", scan_of(image, "MR"), severity)
        change = striped - image
        assert change[0].std() * np.sqrt(2) == pytest.approx(100 * asked, rel=0.02)
        assert change[0].mean() == pytest.approx(0, abs=1)
        assert change[1, :, :, :10].std() * np.sqrt(2) == pytest.approx(100 * asked, rel=0.1)


@pytest.mark.parametrize("severity", SEVERITIES)
def test_resolution_loses_fine_structure_and_keeps_coarse(scan_of: ScanOf, severity: int) -> None:
    across = np.arange(96) + 0.5
    coarser = find_disturbance("resolution").severities[severity - 1]
    for frequency, left in ((0.8 / coarser, 1.0), (1.2 / coarser, 0.0)):  # of the highest one
        if frequency > 1:
            continue
        line = round(frequency * 96)  # a cosine of the mirrored image, so that it is one line of its spectrum
        wave = 100 + 50 * np.cos(np.pi * line * across / 96)
        (found,), _, _ = disturb("resolution", scan_of(np.tile(wave, (2, 8, 1)), "MR"), severity)
        assert found.std() == pytest.approx(left * 50 / np.sqrt(2), abs=0.5)


def test_edges_ring_at_lower_resolution(scan_of: ScanOf) -> None:
    image = np.full((2, 16, 96), 100.0)
    image[..., 48:] = 200
    (found,), _, _ = disturb("resolution", scan_of(image, "MR"), 5)
    assert (found.max() - 200) / 100 == pytest.approx(0.09, abs=0.02)  # Gibbs
    assert np.abs(found[..., :2] - 100).max() < 3  # and not at the image's border


@pytest.mark.parametrize("severity", SEVERITIES)
def test_gamma_keeps_the_range_and_bends_what_is_between(scan_of: ScanOf, severity: int) -> None:
    ramp = scan_of(np.linspace(50, 250, 2 * 10 * 10).reshape(2, 10, 10), "MR")
    (bent,), parameters, asked = disturb("gamma", ramp, severity)
    assert parameters["gamma"] in (pytest.approx(asked), pytest.approx(1 / asked))
    np.testing.assert_allclose((bent - 50) / 200, ((ramp.channels[0] - 50) / 200) ** parameters["gamma"], atol=1e-5)


def widths(image: Array, spacing: tuple[float, ...]) -> list[float]:
    """Full width at half maximum of a blurred point along each axis in mm, if it is a Gaussian: from its variance."""
    found = []
    for axis, step in enumerate(spacing):
        profile = image.sum(tuple(other for other in range(3) if other != axis)) / image.sum()
        at = np.arange(len(profile)) * step
        mean = (profile * at).sum()
        found.append(float(np.sqrt((profile * (at - mean) ** 2).sum() * 8 * np.log(2))))
    return found


@pytest.mark.parametrize("severity", SEVERITIES)
def test_blur_has_its_width_in_mm_whatever_the_spacing(scan_of: ScanOf, severity: int) -> None:
    spacing = (2.5, 1.0, 0.8)
    image = np.zeros((21, 41, 51))
    image[10, 20, 25] = 1000
    (blurred,), _, asked = disturb("blur", scan_of(image, "MR", spacing), severity)
    assert widths(blurred, spacing) == pytest.approx([asked] * 3, rel=0.01)
    assert blurred.sum() == pytest.approx(1000, rel=1e-4)
    assert blurred.min() > -1e-3
    profile = blurred[10, 20]  # half of the maximum at half of the width, where voxels are fine enough to see it
    if asked >= 5:
        assert np.interp(25 + asked / 2 / 0.8, np.arange(51), profile) == pytest.approx(profile[25] / 2, rel=0.05)
