"""CT disturbances are as strong as their severities say, measured on images whose answer is known."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from nnunet_ima.shift import Scan, find_disturbance
from nnunet_ima.shift.ct.dose import FULL_DOSE_NOISE, WATER, noise_filters, unit_noise

Array = np.ndarray[Any, Any]
ScanOf = Callable[..., Scan]
SEVERITIES = range(1, 6)


def disturb(name: str, scan: Scan, severity: int, seed: int = 0) -> tuple[Array, dict[str, Any], float]:
    """Disturbed channels, the parameters, and the severity in its unit."""
    disturbance = find_disturbance(name)
    parameters = disturbance.draw(severity, scan, np.random.default_rng(seed))
    return disturbance.apply(scan, parameters).channels, parameters, disturbance.severities[severity - 1]


def ellipse(size: int, edge: float, across: float, up: float) -> Array:
    """Mask (size, size) of an ellipse with these diameters in mm, in the middle."""
    rows, columns = (np.mgrid[:size, :size] - (size - 1) / 2) * edge * 2
    return (columns / across) ** 2 + (rows / up) ** 2 < 1


@pytest.fixture
def water(scan_of: ScanOf) -> Scan:
    """A water phantom of 200 mm in air, pixels of 2.5 mm."""
    image = np.where(ellipse(96, 2.5, 200, 200), 0.0, -1000.0)
    return scan_of(np.tile(image, (5, 1, 1)), "CT", (3.0, 2.5, 2.5))


@pytest.mark.parametrize("severity", SEVERITIES)
def test_noise_grows_with_the_root_of_the_inverse_dose(water: Scan, severity: int) -> None:
    body = water.channels[0] > -500
    full_dose = FULL_DOSE_NOISE * np.random.default_rng(1).standard_normal(body.shape)
    noisy, _, dose = disturb("dose", water.with_channels(water.channels + full_dose), severity)
    whole = (noisy - water.channels)[0]
    assert whole[body].std() == pytest.approx(FULL_DOSE_NOISE / np.sqrt(dose), rel=0.04)
    assert abs(whole[body].mean()) < 0.1 * whole[body].std()
    assert whole[:, :8, :8].std() < whole[body].std()


def test_noise_is_as_strong_in_every_slice_and_for_every_patient(scan_of: ScanOf) -> None:
    sizes = (100, 200, 400)
    image = np.stack([np.where(ellipse(96, 5, size, size), 40.0, -1000.0) for size in sizes])
    scan = scan_of(image, "CT", (3, 5, 5))
    (noisy,), parameters, _ = disturb("dose", scan, 2)
    for before, after in zip(image, noisy, strict=True):
        assert (after - before)[before > 0].std() == pytest.approx(parameters["sigma"], rel=0.1)


def test_noise_resembles_filtered_back_projection() -> None:
    """Variance and direction of the noise of an ellipse; the reference modulates its tube current, too."""
    from skimage.transform import iradon, radon

    size, edge, draws = 64, 6.0, 40
    body = ellipse(size, edge, 320, 160)
    hounsfield = np.where(body, 0.0, -1000.0)
    angles = np.arange(0, 180, 2.0)
    path = radon(WATER * (1 + hounsfield / 1000) * edge, angles, circle=False)
    ray_noise = np.exp(path / 2 - path.max(0) / 4)
    rng = np.random.default_rng(0)
    reference = np.stack(
        [
            iradon(rng.standard_normal(path.shape) * ray_noise, angles, circle=False, output_size=size)
            for _ in range(draws)
        ]
    )
    filters = noise_filters(body.shape, (edge, edge))
    ours = np.stack([unit_noise(hounsfield, (edge, edge), filters, rng) for _ in range(draws)])
    assert ours.var(0)[body].mean() == pytest.approx(1, rel=0.05)
    for row, column in ((32, 32), (32, 10), (22, 32), (42, 32), (32, 54)):
        ratio = _share(ours, body, row, column) / _share(reference, body, row, column)
        assert 0.5 < ratio < 2, (row, column)
    for noise in (reference, ours):
        along_rows, along_columns = (_correlation(noise, axis) for axis in (2, 1))
        assert along_rows > along_columns + 0.3


def _share(noise: Array, body: Array, row: int, column: int) -> float:
    """Variance around a place, relative to the body's."""
    variance = noise.var(0)
    return float(variance[row - 2 : row + 3, column - 2 : column + 3].mean() / variance[body].mean())


def _correlation(noise: Array, axis: int) -> float:
    """Of neighbours along an axis, in the middle of the body."""
    inside = noise[:, 26:38, 20:44]
    return float((inside * np.roll(noise, -1, axis)[:, 26:38, 20:44]).mean() / (inside**2).mean())


@pytest.mark.parametrize("severity", SEVERITIES)
def test_hu_shift_is_exact(water: Scan, severity: int) -> None:
    shifted, _, asked = disturb("hu-shift", water, severity)
    assert np.unique(np.abs(shifted - water.channels)).tolist() == [asked]


def test_hu_shift_goes_both_ways(water: Scan) -> None:
    means = {float(np.sign(disturb("hu-shift", water, 3, seed)[0].mean() - water.channels.mean())) for seed in range(8)}
    assert means == {-1, 1}


@pytest.mark.parametrize("severity", SEVERITIES)
def test_hu_scale_moves_what_is_denser_than_water(scan_of: ScanOf, severity: int) -> None:
    image = np.array([-1000.0, -100, 0, 40, 1000]).reshape(1, 1, 5)
    (scaled,), parameters, asked = disturb("hu-scale", scan_of(image, "CT"), severity)
    factor = parameters["factor"]
    assert factor in (pytest.approx(asked), pytest.approx(1 / asked))
    assert scaled.ravel() == pytest.approx([-1000, -100, 0, 40 * factor, 1000 * factor])


@pytest.mark.parametrize("severity", SEVERITIES)
def test_the_cup_is_a_parabola_as_deep_as_asked(water: Scan, severity: int) -> None:
    (cupped,), _, asked = disturb("cupping", water, severity)
    lost = (water.channels[0] - cupped)[2]
    assert lost.max() == pytest.approx(asked, rel=1e-3)
    assert lost[water.channels[0, 2] < -500].max() == 0
    radii = np.array([20, 50, 80])
    profile = lost[47:49].mean(0)[(48 + radii / 2.5).astype(int)]
    assert profile == pytest.approx(asked * (1 - (radii / 100) ** 2), abs=0.1 * asked)


@pytest.mark.parametrize("severity", SEVERITIES)
def test_streaks_have_their_strength_20_mm_from_the_metal(water: Scan, severity: int) -> None:
    (streaky,), parameters, asked = disturb("streaks", water, severity)
    row, column = parameters["place"]
    assert water.channels[0, 2, row, column] == 0  # in the body
    assert streaky[:, row, column].tolist() == [3071] * 5
    rows, columns = np.mgrid[:96, :96]
    distance = np.hypot(rows - row, columns - column) * 2.5
    change = streaky - water.channels[0]
    for radius in (20, 40):
        ring = (np.abs(distance - radius) < 2) & (water.channels[0, 2] == 0)
        strength = np.sqrt((change[:, ring] ** 2 * (distance[ring] / radius) ** 2).mean())
        assert strength == pytest.approx(asked * 20 / radius, rel=0.35)
    assert streaky.min() >= -1024


def test_a_kernel_softens_within_slices_only(scan_of: ScanOf) -> None:
    image = np.full((5, 41, 61), -1.0)
    image[2, 20, 30] = 999
    for severity in SEVERITIES:
        (soft,), _, asked = disturb("soft-kernel", scan_of(image, "CT", (3.0, 0.8, 0.5)), severity)
        soft = soft + 1
        assert np.abs(soft[[0, 1, 3, 4]]).max() < 1e-2
        for axis, edge in ((0, 0.8), (1, 0.5)):
            profile = soft[2].sum(1 - axis) / 1000
            at = (np.arange(len(profile)) - len(profile) // 2) * edge
            assert np.sqrt((profile * at**2).sum() * 8 * np.log(2)) == pytest.approx(asked, rel=0.01)


def test_a_kernel_sharpens_the_finest_structure_most(scan_of: ScanOf) -> None:
    pixels = np.arange(64)
    fine, coarse = 100 * (-1.0) ** pixels, 100 * np.cos(np.pi * 2 * (pixels + 0.5) / 64)
    for severity in SEVERITIES:
        gains = []
        for wave in (fine, coarse):
            scan = scan_of(np.tile(wave, (2, 8, 1)), "CT", (3, 0.5, 0.5))
            (sharp,), _, asked = disturb("sharp-kernel", scan, severity)
            gains.append(sharp.std() / wave.std())
        assert gains[0] == pytest.approx(asked, rel=0.05)
        assert gains[1] == pytest.approx(1, abs=0.1)


@pytest.mark.parametrize("severity", SEVERITIES)
def test_the_window_clips_and_keeps_hounsfield_units(scan_of: ScanOf, severity: int) -> None:
    ramp = np.linspace(-1000, 2000, 60).reshape(1, 6, 10)
    (seen,), _, width = disturb("window", scan_of(ramp, "CT"), severity)
    assert seen.min() == max(-1000, 40 - width / 2)
    assert seen.max() == 40 + width / 2
    inside = np.abs(ramp - 40) < width / 2
    np.testing.assert_array_equal(seen[inside], ramp.astype(np.float32)[inside])


def test_what_is_not_in_hounsfield_units_is_refused(water: Scan) -> None:
    shifted = water.with_channels(water.channels + 1024)
    for name in ("dose", "hu-shift", "cupping", "window"):
        with pytest.raises(ValueError, match=f"{name}: no voxel is below 24, so that values cannot be"):
            disturb(name, shifted, 1)


def test_slices_across_another_axis_are_disturbed_alike(water: Scan) -> None:
    """Sagittal storage of an axial scan: the physics goes by the slices, wherever they lie in the array."""
    turned = Scan(
        np.ascontiguousarray(water.channels.transpose(0, 2, 3, 1)),
        np.ascontiguousarray(water.label.transpose(1, 2, 0)),
        np.diag([6.0, 2.5, 2.5, 1]),
        "CT",
    )
    thick = Scan(water.channels, water.label, np.diag([2.5, 2.5, 6.0, 1]), "CT")
    assert (turned.slice_axis, thick.slice_axis) == (2, 0)
    for name in ("dose", "cupping", "streaks", "soft-kernel", "sharp-kernel"):
        expected, found = disturb(name, thick, 3)[0], disturb(name, turned, 3)[0]
        np.testing.assert_allclose(found.transpose(0, 3, 1, 2), expected, atol=1e-3, err_msg=name)
