"""Classifiers on nnU-Net's encoder: what they compute, what freezing keeps, and what they refuse."""

from __future__ import annotations

import copy
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from nnunetv2.utilities.get_network_from_plans import get_network_from_plans
from torch import Tensor, nn

from nnunet_ima.classification.head import EncoderClassifier, small_architecture
from nnunet_ima.inference.model import open_model


def architecture(residual: bool = False, dimensions: int = 2) -> dict[str, Any]:
    """A tiny network of nnU-Net, as plans describe it."""
    described = small_architecture(residual)
    depth = "n_blocks_per_stage" if residual else "n_conv_per_stage"
    kwargs = described["arch_kwargs"] | {
        "n_stages": 3,
        "features_per_stage": [4, 6, 8],
        "conv_op": f"torch.nn.modules.conv.Conv{dimensions}d",
        "norm_op": f"torch.nn.modules.instancenorm.InstanceNorm{dimensions}d",
        "kernel_sizes": [[3] * dimensions] * 3,
        "strides": [[1] * dimensions, [2] * dimensions, [*[1] * (dimensions - 2), 2, 2]],
        depth: [1, 1, 1],
        "n_conv_per_stage_decoder": [1, 1],
    }
    return described | {"arch_kwargs": kwargs}


def images(dimensions: int = 2, channels: int = 2, batch: int = 3, size: int = 16) -> Tensor:
    return torch.randn(batch, channels, *[size] * dimensions, generator=torch.Generator().manual_seed(1))


def built(described: dict[str, Any], channels: int = 2, classes: int = 3, **settings: Any) -> EncoderClassifier:
    torch.manual_seed(0)
    return EncoderClassifier.from_architecture(described, channels, classes, **settings)


def recomputed(encoder: nn.Module, linear: nn.Linear, x: Tensor) -> Tensor:
    """The logits, from the last of an encoder's skips."""
    deepest = encoder(x)[-1]
    return deepest.mean(dim=tuple(range(2, x.ndim))) @ linear.weight.T + linear.bias


@pytest.mark.parametrize("dimensions", [2, 3])
@pytest.mark.parametrize("residual", [False, True])
def test_logits_are_a_linear_function_of_the_last_skips_mean(residual: bool, dimensions: int) -> None:
    described = architecture(residual, dimensions)
    before = copy.deepcopy(described)
    classifier = built(described)
    torch.manual_seed(0)
    names = ("network_class_name", "arch_kwargs", "_kw_requires_import")
    theirs = get_network_from_plans(*(described[name] for name in names), 2, 3, deep_supervision=False)
    x = images(dimensions)
    assert classifier(x).shape == (3, 3)
    torch.testing.assert_close(classifier(x), recomputed(theirs.encoder, classifier.linear, x))
    assert classifier.downsampling == (2, 4, 4)[-dimensions:]
    assert described == before


def test_the_same_seed_gives_the_same_weights() -> None:
    first, second = built(architecture()), built(architecture())
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), second.parameters(), strict=True))


@pytest.mark.parametrize("residual", [False, True])
def test_the_small_architecture_is_one_for_cpus(residual: bool) -> None:
    described = small_architecture(residual)
    classifier = built(described, channels=1, classes=2)
    assert type(classifier.encoder).__name__ == ("ResidualEncoder" if residual else "PlainConvEncoder")
    assert described["arch_kwargs"]["features_per_stage"] == [16, 32, 64, 128]
    assert classifier(images(channels=1, size=64)).shape == (3, 2)
    assert classifier.linear.in_features == 128
    assert sum(weight.numel() for weight in classifier.parameters()) < 400_000


@pytest.mark.parametrize("mode", [True, False])
@pytest.mark.parametrize("residual", [False, True])
def test_samples_do_not_depend_on_their_batch_mates(residual: bool, mode: bool) -> None:
    classifier, x = built(architecture(residual)).train(mode), images()
    alone = torch.cat([classifier(sample[None]) for sample in x])
    torch.testing.assert_close(classifier(x), alone)


def test_dropout_acts_on_the_features_in_training_only() -> None:
    classifier, x = built(architecture(), dropout=0.5), images()
    assert not torch.equal(classifier(x), classifier(x))
    classifier.eval()
    assert torch.equal(classifier(x), classifier.linear(classifier.features(x)))


@pytest.mark.parametrize("frozen", [True, False])
def test_the_encoder_is_a_copy_of_the_trained_one(trained_model: Path, frozen: bool) -> None:
    classifier = EncoderClassifier.from_trained(trained_model, 1, 2, frozen=frozen)
    theirs: Any = open_model(trained_model).networks[0].encoder
    weights = theirs.state_dict()
    assert classifier.encoder.state_dict().keys() == weights.keys()
    assert all(torch.equal(value, weights[key]) for key, value in classifier.encoder.state_dict().items())
    assert {weight.requires_grad for weight in classifier.encoder.parameters()} == {not frozen}
    x = images(channels=1, size=64)
    torch.testing.assert_close(classifier(x), recomputed(theirs, classifier.linear, x))


@pytest.mark.parametrize("frozen", [True, False])
def test_training_moves_a_frozen_classifiers_linear_layer_only(trained_model: Path, frozen: bool) -> None:
    classifier = EncoderClassifier.from_trained(trained_model, 1, 2, frozen=frozen)
    before = copy.deepcopy(classifier.state_dict())
    optimizer = torch.optim.AdamW(classifier.parameters(), 0.1, weight_decay=0.1)
    for _ in range(2):
        classifier.eval().train()
        nn.functional.cross_entropy(classifier(images(channels=1, size=64)), torch.tensor([0, 1, 1])).backward()
        optimizer.step()
    assert {module.training for module in classifier.encoder.modules()} == {not frozen}
    assert classifier.training
    assert classifier.linear.training
    moved = {key for key, value in classifier.state_dict().items() if not torch.equal(value, before[key])}
    assert {"linear.weight", "linear.bias"} <= moved
    assert any(key.startswith("encoder.") for key in moved) == (not frozen)


def test_gradients_reach_the_images_through_a_frozen_encoder(trained_model: Path) -> None:
    classifier = EncoderClassifier.from_trained(trained_model, 1, 2, frozen=True)
    x = images(channels=1, size=64).requires_grad_()
    nn.functional.cross_entropy(classifier(x), torch.tensor([0, 1, 1])).backward()
    assert x.grad is not None
    assert (x.grad.flatten(1).norm(dim=1) > 0).all()
    assert all(weight.grad is None for weight in classifier.encoder.parameters())
    classifier.double()
    exact = images(channels=1, size=64).double().requires_grad_()
    direction = images(channels=1, size=64, batch=4)[1:].double()
    slope = torch.autograd.grad(classifier(exact)[:, 0].sum(), exact)[0].mul(direction).sum()
    with torch.no_grad():
        step = 1e-6 * direction
        difference = (classifier(exact + step) - classifier(exact - step))[:, 0].sum() / 2e-6
    torch.testing.assert_close(slope, difference, rtol=1e-3, atol=1e-6)


def test_a_frozen_batch_normalisation_keeps_its_statistics() -> None:
    described = architecture()
    described["arch_kwargs"]["norm_op"] = "torch.nn.modules.batchnorm.BatchNorm2d"
    classifier = EncoderClassifier(built(described).encoder, 3, frozen=True).train()
    before = copy.deepcopy(classifier.encoder.state_dict())
    classifier(images() + 5)
    assert all(torch.equal(value, before[key]) for key, value in classifier.encoder.state_dict().items())


def test_other_channels_than_the_encoders_are_refused(trained_model: Path) -> None:
    with pytest.raises(ValueError, match=r"images have 3 channels, but the encoder in .* was trained with 1"):
        EncoderClassifier.from_trained(trained_model, 3, 2)
    classifier = built(architecture())
    for wrong in (images(channels=1), images(dimensions=3), images()[0]):
        with pytest.raises(ValueError, match=r"takes images \(B, 2, y, x\), that is 2 channels, got \("):
            classifier(wrong)


def test_sizes_that_cannot_work_are_refused() -> None:
    with pytest.raises(ValueError, match=r"multiple of \(4, 4\), got \(18, 18\)"):
        built(architecture(residual=True))(images(size=18))
    assert built(architecture())(images(size=18)).shape == (3, 3)
    for mode in (True, False):
        with pytest.raises(ValueError, match=r"size \(4, 4\) leave 1 position"):
            built(architecture()).train(mode)(images(size=4))
    with pytest.raises(ValueError, match=r"size \(8, 4\) leave 2 position"):
        built(architecture())(images(size=8)[..., :4])


def test_a_folder_that_cannot_be_used_is_named(trained_model: Path, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="fold_3"):
        EncoderClassifier.from_trained(trained_model, 1, 2, fold="3")
    folder = Path(shutil.copytree(trained_model, tmp_path / "model"))
    (folder / "plans.json").unlink()
    with pytest.raises(FileNotFoundError, match=r"plans\.json"):
        EncoderClassifier.from_trained(folder, 1, 2)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"network_class_name": "somewhere.Primus"}, "somewhere.Primus; the architecture must be one of PlainConvUNet"),
        ({"arch_kwargs": None}, "lacks arch_kwargs"),
    ],
)
def test_other_architectures_are_refused(change: dict[str, Any], message: str) -> None:
    described = {key: value for key, value in (architecture() | change).items() if value is not None}
    with pytest.raises(ValueError, match=message):
        EncoderClassifier.from_architecture(described, 1, 2)


def test_numbers_out_of_range_and_other_encoders_are_refused() -> None:
    with pytest.raises(ValueError, match="at least 2 classes, one logit each, got 1"):
        built(architecture(), classes=1)
    with pytest.raises(ValueError, match="at least one channel, got 0"):
        built(architecture(), channels=0)
    with pytest.raises(ValueError, match="got Conv2d"):
        EncoderClassifier(nn.Conv2d(1, 1, 1), 2)
