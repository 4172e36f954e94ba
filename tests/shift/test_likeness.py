"""What scans of one kind look like, and which ones are not of that kind."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from nnunet_ima.datasets.ct_phantom import ct_phantom_case
from nnunet_ima.datasets.phantom import phantom_case
from nnunet_ima.shift import Scan, find_disturbance
from nnunet_ima.shift.exported import exported
from nnunet_ima.shift.likeness import FILE, Likeness, features, learn, orientation, read_likeness, write_likeness


def scan(number: int, modality: str = "MR") -> Scan:
    """One of many phantoms of slightly different size."""
    rng = np.random.default_rng([3, number])
    shape = tuple(int(size) for size in rng.integers((20, 22, 14), (24, 26, 18)))
    make = phantom_case if modality == "MR" else ct_phantom_case
    image, label = make(rng, shape, (2.0, 2.0, 3.0) if modality == "MR" else (10.0, 10.0, 10.0))
    voxels = np.rint(100 * image if modality == "MR" else image).astype(np.float32)
    affine = np.diag([2.0, 2.0, 3.0, 1.0])
    return Scan(np.ascontiguousarray(voxels.transpose(0, 3, 2, 1)), np.ascontiguousarray(label.T), affine, modality)


@pytest.fixture(scope="module")
def known() -> Likeness:
    return learn(scan(number) for number in range(40))


def test_an_export_leaves_no_more_grey_levels_and_takes_none_away() -> None:
    whole = scan(1)
    whole = whole.with_channels(100 * np.rint(whole.channels / 100))
    levels = len(np.unique(whole.channels))
    noisy = whole.with_channels(whole.channels + np.random.default_rng(0).normal(size=whole.channels.shape))
    written = exported(noisy, whole)
    assert len(np.unique(noisy.channels)) > levels
    assert len(np.unique(written.channels)) <= levels
    assert np.abs(written.channels - noisy.channels).max() <= 0.51 * np.ptp(noisy.channels) / (levels - 1)
    dark = whole.with_channels(np.minimum(whole.channels, np.median(whole.channels)))
    assert np.array_equal(exported(dark, whole).channels, dark.channels)
    assert exported(whole, whole) is whole
    assert exported(noisy.with_channels(2 * noisy.channels), noisy).channels.max() == 2 * noisy.channels.max()
    decimal = exported(noisy.with_channels(np.sqrt(np.abs(noisy.channels))), noisy)
    assert len(np.unique(decimal.channels)) > len(np.unique(noisy.channels)) / 2


def test_few_false_alarms_on_scans_of_the_same_kind(known: Likeness) -> None:
    alarms = sum(known.score(scan(number)) > known.threshold for number in range(100, 160))
    assert alarms <= 9  # of 60, where 3 are expected
    assert known.scans == 40
    assert known.orientations == ("RAS",)


@pytest.mark.parametrize(
    ("name", "severity", "by"),
    [
        ("rician-noise", 5, "noise"),
        ("blur", 4, "sharpness"),
        ("slice-thickness", 3, "spacing across slices"),
        ("field-of-view", 5, "extent"),
        ("grey-levels", 5, "grey levels"),
        ("wrong-spacing", 4, "spacing"),
        ("reoriented", 1, "orientation"),
    ],
)
def test_what_it_sees(known: Likeness, name: str, severity: int, by: str) -> None:
    disturbance = find_disturbance(name)
    for number in (200, 201, 202):
        whole = scan(number)
        disturbed = disturbance.apply(whole, disturbance.draw(severity, whole, np.random.default_rng(number)))
        far = known.unlike(disturbed)
        assert max(far.values()) > known.threshold
        assert any(by in feature for feature, distance in far.items() if distance > known.threshold)


def test_the_scale_of_mr_and_its_place_mean_nothing_that_of_ct_does(known: Likeness) -> None:
    whole = scan(7)
    louder = replace(whole.with_channels(5 * whole.channels), affine=whole.affine + np.diag([0, 0, 0, 0.0]))
    assert features(louder) == pytest.approx(features(whole), abs=1e-4)
    ct = scan(7, "CT")
    shifted = ct.with_channels(ct.channels + 500)
    assert features(shifted)["percentile 99, HU"] == pytest.approx(features(ct)["percentile 99, HU"] + 0.5)


@pytest.mark.parametrize(("diagonal", "letters"), [((1, 1, 1), "RAS"), ((-1, -1, 1), "LPS"), ((1, -1, -1), "RPI")])
def test_orientation(diagonal: tuple[int, ...], letters: str) -> None:
    assert orientation(replace(scan(0), affine=np.diag([*diagonal, 1.0]))) == letters


def test_an_unknown_orientation_is_unlike_at_once(known: Likeness) -> None:
    turned = replace(scan(0), affine=np.diag([-2.0, 2.0, 3.0, 1.0]))
    assert next(iter(known.unlike(turned).items())) == ("orientation", math.inf)


def test_it_comes_back_from_its_file(known: Likeness, tmp_path: Path) -> None:
    assert write_likeness(known, tmp_path) == tmp_path / FILE
    assert read_likeness(tmp_path) == known


@pytest.mark.parametrize("damage", ["", "[]", "{}", '{"schema": 1}', '{"schema": 7}'])
def test_a_damaged_file_is_named(known: Likeness, tmp_path: Path, damage: str) -> None:
    (tmp_path / FILE).write_text(damage)
    with pytest.raises(ValueError, match=r"likeness.json .*; learn it with nnunet-ima-check --learn"):
        read_likeness(tmp_path)
    content = json.loads(write_likeness(known, tmp_path).read_text())
    content["spread"]["noise"] = 0
    (tmp_path / FILE).write_text(json.dumps(content))
    with pytest.raises(ValueError, match="have no spread"):
        read_likeness(tmp_path)


def test_too_few_or_mixed_scans_are_refused(known: Likeness) -> None:
    with pytest.raises(ValueError, match="at least 10 scans are needed to learn from, got 3"):
        learn(scan(number) for number in range(3))
    with pytest.raises(ValueError, match="differ in modality"):
        learn([*(scan(number) for number in range(10)), scan(0, "CT")])
    two = scan(0)
    with pytest.raises(ValueError, match="the scan has 2 channels, those that were learnt from have 1"):
        known.unlike(two.with_channels(np.concatenate([two.channels] * 2)))


def test_a_single_slice_has_features() -> None:
    whole = scan(0)
    flat = replace(whole, channels=whole.channels[:, :1], label=whole.label[:1])
    assert all(math.isfinite(value) for value in features(flat).values())
