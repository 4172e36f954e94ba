"""The differentiable preprocessing is nnU-Net's: classes of normalisation, resampling, and all of it together."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from nnunetv2.preprocessing.normalization import default_normalization_schemes as nnunet
from plans_only import make_case, make_model, random_voxels
from torch import Tensor

from nnunet_ima.inference.preprocessing import SCHEMES, Preprocessing, check_known, normalised
from nnunet_ima.inference.volume import read_volume
from nnunet_ima.shift.scan_files import read_scan

INTENSITIES = {"mean": 95.0, "std": 20.0, "percentile_00_5": 40.0, "percentile_99_5": 150.0}


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("scheme", SCHEMES)
def test_normalises_as_the_class_of_that_name(scheme: str, masked: bool) -> None:
    voxels = random_voxels()
    mask = voxels > 90
    theirs = getattr(nnunet, scheme)(masked, INTENSITIES).run(voxels.copy(), np.where(mask, 0, -1))
    known = torch.from_numpy(mask) if masked else None
    ours = normalised(torch.from_numpy(voxels), scheme, known, INTENSITIES)
    assert np.allclose(ours.numpy(), theirs, atol=1e-5)


def test_a_constant_image_is_divided_by_no_less_than_nnunet_does() -> None:
    flat = torch.full((4, 4, 4), 7.0)
    assert normalised(flat, "ZScoreNormalization", None, INTENSITIES).abs().max() == 0


@pytest.mark.parametrize(
    ("spacing", "target"),
    [
        ((1.0, 1.0, 1.0), (1.3, 0.8, 1.0)),  # all axes together
        ((5.0, 1.0, 1.2), (4.0, 0.7, 1.0)),  # slices of their own
        ((1.0, 1.0, 6.0), (1.2, 1.5, 4.0)),  # along another axis
        ((2.0, 1.0, 1.0), (0.8, 1.3)),  # 2D
    ],
)
def test_equals_what_nnunet_makes_of_a_case(tmp_path: Path, spacing: Any, target: Any) -> None:
    voxels = random_voxels(shape=(20, 18, 12))
    voxels[:3], voxels[:, -2:], voxels[..., :1] = 0, 0, 0  # to be cropped
    voxels[8, 8, 5] = 0  # and a hole, which is not
    # nnU-Net clips to the range of each slice where slices are resampled on their own: all have the same range here
    slices = np.moveaxis(voxels, 2 - int(np.argmax(spacing)), 0)
    slices[:, 5, 5], slices[:, -5, -5] = -50, 300
    model = make_model(spacing=target, transpose=(1, 0, 2) if len(target) == 3 else (0, 1, 2), masked=True)
    case = make_case(tmp_path, voxels, affine=np.diag([*spacing[::-1], 1.0]))
    volume, scan = read_volume(case, model), read_scan(case.images, case.label, "MR")
    preprocessing = Preprocessing(model, scan.spacing)
    image = torch.from_numpy(scan.channels)
    found, shares = preprocessing(image, torch.ones_like(image))
    assert found.shape == volume.image.shape != image.shape
    assert float((found - volume.image).abs().max()) < 1e-3
    assert shares.allclose(torch.ones(()))
    assert preprocessing.check(image, volume) < 1e-4


def test_the_crop_follows_the_image(tmp_path: Path) -> None:
    case = make_case(tmp_path, random_voxels())
    scan = read_scan(case.images, case.label, "MR")
    image = torch.from_numpy(scan.channels)
    preprocessing = Preprocessing(make_model(), scan.spacing)
    bare = image.clone()
    bare[:, :2] = 0
    assert preprocessing(image, image)[0].shape[1:] == image.shape[1:]
    assert preprocessing(bare, bare)[0].shape[1] == image.shape[1] - 2


def test_the_gradient_is_that_of_the_whole(tmp_path: Path) -> None:
    """A gain, which z-scores undo, has no effect; a voxel has that of finite differences, mean and deviation too."""
    voxels = random_voxels(shape=(12, 10, 8))
    model = make_model(spacing=(0.9, 1.2, 1.1))
    case = make_case(tmp_path, voxels)
    preprocessing = Preprocessing(model, (1.0, 1.0, 1.0))
    image = torch.from_numpy(read_scan(case.images, case.label, "MR").channels)
    weights = torch.randn(preprocessing(image, image)[0].shape, generator=torch.Generator().manual_seed(0))

    def value(changed: Tensor) -> Tensor:
        return (preprocessing(changed, changed)[0].double() * weights).sum()

    gain = torch.ones((), requires_grad=True)
    (of_gain,) = torch.autograd.grad(value(gain * image + 3), gain)
    x = image.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(value(x), x)
    assert float(of_gain.abs()) < 1e-3 * float(gradient.abs().sum() * image.std())
    step = torch.zeros_like(image)
    step[0, 4, 5, 6] = 2.0
    difference = (value(image + step) - value(image - step)) / 4
    assert float(difference) == pytest.approx(float(gradient[0, 4, 5, 6]), rel=0.02)


def test_unknown_steps_are_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="OtherPreprocessor with ZScoreNormalization; known are DefaultPreprocessor"):
        check_known(make_model(preprocessor="OtherPreprocessor"))
    with pytest.raises(ValueError, match="RGBTo01Normalization"):
        Preprocessing(make_model(schemes=("RGBTo01Normalization",)), (1, 1, 1))
    with pytest.raises(ValueError, match="gradients do not pass through Other"):
        normalised(torch.ones(2, 2, 2), "Other", None, INTENSITIES)


def test_another_image_than_nnunets_is_refused(tmp_path: Path) -> None:
    case, model = make_case(tmp_path, random_voxels()), make_model()
    volume = read_volume(case, model)
    image = torch.from_numpy(read_scan(case.images, case.label, "MR").channels)
    preprocessing = Preprocessing(model, (1.0, 1.0, 1.0))
    assert preprocessing.check(image, volume) == 0
    with pytest.raises(ValueError, match="case: the differentiable preprocessing gives another image"):
        preprocessing.check(image.flip(1), volume)
    with pytest.raises(ValueError, match="readers that turn images"):
        preprocessing.check(image, replace(volume, image=volume.image[:, 1:]))
