"""Phantom volumes and the raw data sets made of them."""

import json
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest

from nnunet_ima.datasets.phantom import hide_labels, phantom_case
from nnunet_ima.datasets.phantom_dataset import PhantomSettings, write_phantom


def draw(seed: int = 0, **options: Any) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    options = {"shape": (40, 40, 24), "spacing": (1.0, 1.0, 1.0), **options}
    return phantom_case(np.random.default_rng(seed), **options)


@pytest.mark.parametrize(
    ("shape", "spacing", "channels"),
    [((40, 40, 24), (1, 1, 1), 1), ((48, 40, 10), (0.6, 0.6, 3.6), 2), ((40, 32), (1, 1), 1)],
)
def test_shapes_and_labels(shape: tuple[int, ...], spacing: tuple[float, ...], channels: int) -> None:
    for seed in range(5):
        image, label = draw(seed, shape=shape, spacing=spacing, channels=channels)
        assert image.shape == (channels, *shape)
        assert image.dtype == np.float32
        assert label.shape == shape
        assert label.dtype == np.uint8
        assert np.isfinite(image).all()
        assert image.min() >= 0  # a magnitude image
        shares = np.bincount(label.ravel(), minlength=3) / label.size
        assert len(shares) == 3
        assert shares[1:].min() > 0.002
        assert shares[1:].sum() < 0.3


def test_same_seed_same_volume() -> None:
    for again, expected in zip(draw(3), draw(3), strict=True):
        np.testing.assert_array_equal(again, expected)
    assert (draw(3)[0] != draw(4)[0]).any()


def test_core_lies_inside_the_organ() -> None:
    label = draw(1)[1]
    touching = np.zeros(label.shape, dtype=bool)
    for axis in range(3):
        for step in (-1, 1):
            touching |= np.roll(label == 2, step, axis)
    assert (label[touching] > 0).mean() > 0.9


def test_channels_have_different_contrast() -> None:
    image, label = draw(2, channels=2)
    shell, core = ([channel[label == value].mean() for channel in image] for value in (1, 2))
    assert core[0] > 1.1 * shell[0]
    assert core[1] < 0.8 * shell[1]


def test_noise_is_rician() -> None:
    noisy = draw(0, noise=0.1, bias=0.0)[0][0]
    air = noisy[:3, :3]  # a corner: no signal, so Rayleigh noise with mean σ·sqrt(π/2) and a ratio of 1.91
    assert air.mean() / air.std() == pytest.approx(1.91, rel=0.1)
    quiet = draw(0, noise=0.0, bias=0.0)[0][0]
    assert quiet[:3, :3].std() < 0.1 * air.std()


def test_bias_field_is_multiplicative_and_smooth() -> None:
    flat, biased = (draw(0, noise=0.0, bias=bias)[0][0].astype(float) for bias in (0.0, 0.3))
    field = np.log(biased / flat)
    assert field.std() == pytest.approx(0.3, rel=1e-3)
    assert np.abs(np.diff(field, axis=0)).max() < 0.15


def test_too_small_a_volume_is_refused() -> None:
    with pytest.raises(ValueError, match="4×4×4 voxels has no room for two structures"):
        draw(shape=(4, 4, 4))


def test_hidden_labels() -> None:
    label = draw(0)[1]
    before = label.copy()
    hide_labels(np.random.default_rng(0), label, 3, share=0.25)
    assert (label == 3).mean() == pytest.approx(0.25, abs=0.001)
    np.testing.assert_array_equal(label[label != 3], before[label != 3])


def files(folder: Path) -> dict[str, bytes]:
    return {str(file.relative_to(folder)): file.read_bytes() for file in folder.rglob("*") if file.is_file()}


def test_data_set_is_deterministic(tmp_path: Path) -> None:
    settings = {"shape": (16, 16, 12), "channels": 2, "seed": 5}
    write_phantom(tmp_path / "a", PhantomSettings(cases=5, **settings), show_progress=False)
    write_phantom(tmp_path / "b", PhantomSettings(cases=5, **settings), show_progress=False)
    write_phantom(tmp_path / "c", PhantomSettings(cases=6, **settings), show_progress=False)
    first, more = files(tmp_path / "a"), files(tmp_path / "c")
    assert first == files(tmp_path / "b")
    assert len(first) == 5 * 3 + 1
    del first["dataset.json"]
    assert all(more[name] == content for name, content in first.items())  # case i whatever the number of cases


def test_data_set_with_regions_ignore_label_and_thick_slices(tmp_path: Path) -> None:
    settings = PhantomSettings(cases=5, shape=(24, 20, 8), spacing=(1, 1, 4), regions=True, ignore=True)
    write_phantom(tmp_path / "a", settings, show_progress=False)
    info = json.loads((tmp_path / "a" / "dataset.json").read_text())
    assert info["labels"] == {"background": 0, "whole": [1, 2], "core": 2, "ignore": 3}
    assert info["regions_class_order"] == [1, 2]
    assert info["numTraining"] == 5
    label = nib.load(tmp_path / "a" / "labelsTr" / "phantom_000.nii.gz")
    assert label.shape == (24, 20, 8)
    assert label.header.get_zooms() == (1, 1, 4)
    assert set(np.unique(label.dataobj)) == {0, 1, 2, 3}


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"cases": 4}, "cases must be at least 5"),
        ({"shape": (40, 40, 4)}, "shape must be at least 8 along each axis"),
        ({"spacing": (1, 0, 1)}, "spacing must be positive"),
        ({"spacing": (1, float("nan"), 1)}, "spacing must be positive"),
        ({"channels": 3}, "channels must be 1 or 2"),
        ({"seed": -1}, "seed must not be negative"),
        ({"noise": -0.1}, r"noise must be in \[0, 1\]"),
        ({"bias": 2}, r"bias must be in \[0, 1\]"),
    ],
)
def test_impossible_settings_are_refused(wrong: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        PhantomSettings(**wrong)
