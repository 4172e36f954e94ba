"""The CT phantom: Hounsfield units of its materials, and labels as in the MR phantom."""

from typing import Any

import numpy as np
import pytest

from nnunet_ima.datasets.ct_phantom import AIR, BONE, FAT, LESION, ORGAN, TISSUE, ct_phantom_case

SHAPE, SPACING = (48, 40, 20), (7.0, 7.0, 5.0)


def draw(seed: int = 0, **options: Any) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    return ct_phantom_case(np.random.default_rng(seed), **{"shape": SHAPE, "spacing": SPACING, **options})


@pytest.mark.parametrize("seed", range(5))
def test_materials_have_their_hounsfield_units(seed: int) -> None:
    (image,), label = draw(seed, noise=0.0)
    assert image.shape == label.shape == SHAPE
    assert image.dtype == np.float32
    assert label.dtype == np.uint8
    for value, hounsfield in ((1, ORGAN), (2, LESION)):
        assert np.median(image[label == value]) == pytest.approx(hounsfield, abs=8)
    for hounsfield, least in ((AIR, 0.2), (TISSUE, 0.1), (FAT, 0.005), (BONE, 0.002)):
        assert (np.abs(image - hounsfield) < 30).mean() > least


def test_noise_is_as_asked() -> None:
    quiet, noisy = draw(1, noise=0.0)[0], draw(1, noise=25.0)[0]
    assert (noisy - quiet).std() == pytest.approx(25, rel=0.02)


def test_same_seed_same_volume() -> None:
    for again, expected in zip(draw(3), draw(3), strict=True):
        np.testing.assert_array_equal(again, expected)
    assert (draw(3)[0] != draw(4)[0]).any()


def test_too_small_a_volume_is_refused() -> None:
    with pytest.raises(ValueError, match="4×4×4 voxels has no room for two structures"):
        draw(shape=(4, 4, 4))
