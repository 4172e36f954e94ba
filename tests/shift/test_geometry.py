"""Label map, affine and image stay together; angles, distances and slices are those that severities ask for."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813

from nnunet_ima.shift import DISTURBANCES, Disturbance, Scan, find_disturbance
from nnunet_ima.shift.labels import move_label

Array = np.ndarray[Any, Any]
MakeScan = Callable[..., Scan]
SEVERITIES = range(1, 6)
GEOMETRIC = {name: it for name, it in DISTURBANCES.items() if it.changes != "intensity"}


def disturb(name: str, scan: Scan, severity: int, seed: int = 0) -> tuple[Scan, dict[str, Any], float]:
    """Disturbed scan, the parameters, and the severity in its unit."""
    disturbance = find_disturbance(name)
    parameters = disturbance.draw(severity, scan, np.random.default_rng(seed))
    return disturbance.apply(scan, parameters), parameters, disturbance.severities[severity - 1]


def world(scan: Scan, voxel: Array) -> Array:
    """Where a voxel (z, y, x) lies, in mm towards right, anterior, superior."""
    return (scan.affine @ [*voxel[::-1], 1])[:3]


def centre(image: Array) -> Array:
    """Centre of mass (z, y, x), in voxels."""
    positions = np.indices(image.shape).reshape(3, -1)
    return positions @ image.ravel() / image.sum()


@pytest.mark.parametrize("disturbance", GEOMETRIC.values(), ids=GEOMETRIC)
@pytest.mark.parametrize("severity", SEVERITIES)
def test_an_image_of_the_label_stays_one(disturbance: Disturbance, severity: int, make_scan: MakeScan) -> None:
    scan = make_scan("MR", channels=1)
    scan = scan.with_channels((scan.label > 0)[None])
    for seed in range(2):
        disturbed = disturbance.apply(scan, disturbance.draw(severity, scan, np.random.default_rng(seed)))
        # two labels share the voxels at the border between them, where either may win
        wrong = ((disturbed.channels[0] > 0.5) != (disturbed.label > 0)).mean()
        assert wrong < 0.005
        assert disturbed.label.any()


def test_moved_labels_share_voxels_out_by_the_largest_part() -> None:
    label = np.zeros((1, 1, 6), np.int16)
    label[..., 2:4], label[..., 4:] = 7, 3

    def half_a_voxel_right(image: Array) -> Array:
        return (image + np.pad(image, ((0, 0), (0, 0), (0, 0), (1, 0)))[..., :-1]) / 2

    assert move_label(label, lambda image: image).tolist() == label.tolist()
    assert move_label(label, half_a_voxel_right).ravel().tolist() == [0, 0, 0, 7, 3, 3]
    assert not move_label(np.zeros_like(label), half_a_voxel_right).any()


def blobs(make_scan: MakeScan) -> tuple[Scan, Array]:
    """A scan with two small balls, in a channel of their own each, and their places (z, y, x) in mm."""
    scan = make_scan("MR", shape=(48, 40, 24))
    places = (np.array([scan.shape]) - 1) * scan.spacing / 2 + [[14, 10, -16], [-10, -14, 12]]
    grid = np.stack([axis * step for axis, step in zip(np.indices(scan.shape), scan.spacing, strict=True)])
    balls = [np.exp(-((grid - place.reshape(3, 1, 1, 1)) ** 2).sum(0) / 50) for place in places]
    return scan.with_channels(np.stack(balls)), places


@pytest.mark.parametrize("severity", SEVERITIES)
def test_rotation_is_by_the_angle(severity: int, make_scan: MakeScan) -> None:
    scan, places = blobs(make_scan)
    middle = (np.array(scan.shape) - 1) * scan.spacing / 2
    axes = set()
    for seed in range(4):
        rotated, parameters, asked = disturb("rotation", scan, severity, seed)
        (axis,) = np.flatnonzero(parameters["degrees"])
        axes.add(axis)
        first, second = (other for other in range(3) if other != axis)
        for channel, place in zip(rotated.channels, places, strict=True):
            before, after = place - middle, centre(channel) * scan.spacing - middle
            assert np.linalg.norm(after) == pytest.approx(np.linalg.norm(before), rel=0.03)
            angles = [np.degrees(np.arctan2(vector[second], vector[first])) for vector in (before, after)]
            turned = (angles[1] - angles[0] + 180) % 360 - 180
            assert abs(turned) == pytest.approx(asked, abs=0.5)
        assert (rotated.affine == scan.affine).all()
    assert len(axes) > 1


@pytest.mark.parametrize("severity", SEVERITIES)
def test_translation_is_by_the_distance(severity: int, make_scan: MakeScan) -> None:
    scan, places = blobs(make_scan)
    shifted, parameters, asked = disturb("translation", scan, severity)
    assert np.linalg.norm(parameters["millimetres"]) == pytest.approx(asked)
    for channel, place in zip(shifted.channels, places, strict=True):
        assert centre(channel) * scan.spacing - place == pytest.approx(parameters["millimetres"], abs=0.35)
    assert (shifted.affine == scan.affine).all()


def test_what_comes_from_outside_is_the_smallest_value_and_background(make_scan: MakeScan) -> None:
    scan = make_scan("CT", channels=1)
    scan = replace(scan.with_channels(scan.channels + 1), label=np.ones_like(scan.label))
    parameters = {"millimetres": [0, 0, 3 * scan.spacing[2]]}
    shifted = find_disturbance("translation").apply(scan, parameters)
    assert (shifted.channels[..., :3] == scan.channels.min()).all()
    assert not shifted.label[..., :3].any()
    assert shifted.label[..., 3:].all()


@pytest.mark.parametrize("severity", SEVERITIES)
def test_the_field_of_view_loses_its_millimetres_and_nothing_moves(severity: int, make_scan: MakeScan) -> None:
    scan = make_scan("MR", shape=(48, 40, 24))
    cut, parameters, asked = disturb("field-of-view", scan, severity)
    for before, after, edge in zip(scan.shape, cut.shape, scan.spacing, strict=True):
        assert (before - after) * edge == pytest.approx(min(asked, before // 2 * edge), abs=edge / 2 + 1e-6)
    first = np.array(parameters["low"])
    assert world(cut, np.zeros(3)) == pytest.approx(world(scan, first))
    inside = tuple(slice(low, low + size) for low, size in zip(first, cut.shape, strict=True))
    np.testing.assert_array_equal(cut.channels[0], scan.channels[0][inside])


@pytest.mark.parametrize("severity", SEVERITIES)
def test_slices_have_their_thickness_and_stay_where_they_are(severity: int, make_scan: MakeScan) -> None:
    scan, places = blobs(make_scan)
    thick, parameters, asked = disturb("slice-thickness", scan, severity)
    assert thick.spacing == pytest.approx((scan.spacing[0] + asked, *scan.spacing[1:]))
    assert abs(thick.shape[0] * thick.spacing[0] - scan.shape[0] * scan.spacing[0]) <= thick.spacing[0] / 2
    for channel, place in zip(thick.channels, places, strict=True):
        assert world(thick, centre(channel)) == pytest.approx(world(scan, place / scan.spacing), abs=0.4)
    # the profile of a slice: a single thin slice goes to those it overlaps, in shares of its thickness
    step = np.zeros_like(scan.channels)
    step[:, scan.shape[0] // 2] = 1
    spread = find_disturbance("slice-thickness").apply(scan.with_channels(step), parameters).channels[0, :, 0, 0]
    assert spread.sum() * parameters["thickness"] == pytest.approx(scan.spacing[0], rel=1e-5)
    assert np.count_nonzero(spread) <= 2


def on_grid_of(scan: Scan, reference: Scan) -> Array:
    """Voxels (Z, Y, X) of the first channel, resampled to the grid of another scan by SimpleITK."""
    images = []
    for one in (scan, reference):
        image = sitk.GetImageFromArray(one.channels[0])
        edges = np.linalg.norm(one.affine[:3, :3], axis=0)
        image.SetSpacing(edges.tolist())
        image.SetDirection((one.affine[:3, :3] / edges).ravel().tolist())
        image.SetOrigin(one.affine[:3, 3].tolist())
        images.append(image)
    resampled: Array = sitk.GetArrayFromImage(
        sitk.Resample(images[0], images[1], sitk.Transform(), sitk.sitkLinear, -1)
    )
    return resampled


def oblique(scan: Scan) -> Scan:
    """The same, with axes that run askew in the world."""
    angle = 0.4
    turn = np.eye(4)
    turn[:2, :2] = [[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]
    return replace(scan, affine=turn @ scan.affine)


@pytest.mark.parametrize("severity", SEVERITIES)
def test_a_told_orientation_changes_nothing_in_the_world(severity: int, make_scan: MakeScan) -> None:
    scan = oblique(make_scan("MR"))
    for seed in range(3):
        turned, _, _ = disturb("reoriented", scan, severity, seed)
        assert (turned.affine != scan.affine).any()
        np.testing.assert_allclose(on_grid_of(turned, scan), scan.channels[0], rtol=1e-4)
        other, _, _ = disturb("misoriented", scan, severity, seed)
        np.testing.assert_array_equal(other.channels, turned.channels)
        np.testing.assert_array_equal(other.label, turned.label)
        assert (other.affine == scan.affine).all()
        assert np.abs(on_grid_of(other, scan) - scan.channels[0]).mean() > 0.1 * scan.channels[0].std()


@pytest.mark.parametrize("severity", SEVERITIES)
def test_orientations_are_as_far_from_the_old_one_as_asked(severity: int, make_scan: MakeScan) -> None:
    scan = make_scan("MR")
    for seed in range(5):
        _, parameters, asked = disturb("reoriented", scan, severity, seed)
        moved = sum(place != axis for place, axis in enumerate(parameters["order"]))
        assert len(parameters["flipped"]) == min(asked, 3)
        assert moved == {1: 0, 2: 0, 3: 0, 4: 2, 5: 3}[severity]


@pytest.mark.parametrize("severity", SEVERITIES)
def test_a_wrong_spacing_is_wrong_by_its_factor_along_one_axis(severity: int, make_scan: MakeScan) -> None:
    scan = oblique(make_scan("MR"))
    axes = set()
    for seed in range(6):
        wrong, parameters, asked = disturb("wrong-spacing", scan, severity, seed)
        factors = np.divide(wrong.spacing, scan.spacing)
        expected = np.ones(3)
        expected[parameters["axis"]] = parameters["factor"]
        assert factors == pytest.approx(expected)
        assert parameters["factor"] in (pytest.approx(asked), pytest.approx(1 / asked))
        np.testing.assert_array_equal(wrong.channels, scan.channels)
        axes.add(parameters["axis"])
    assert len(axes) > 1
