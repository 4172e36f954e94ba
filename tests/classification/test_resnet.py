"""The paper's ResNet-18: its size, its normalisation, and that it learns."""

from __future__ import annotations

import runpy
import sys

import pytest
import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from nnunet_ima.classification import head, resnet
from nnunet_ima.classification.resnet import group_norm, resnet18


def images(batch: int = 2, size: int = 64, channels: int = 1) -> Tensor:
    return torch.rand(batch, channels, size, size, generator=torch.Generator().manual_seed(1))


def test_it_has_as_many_weights_as_the_original() -> None:
    """ResNet-18 has 11 689 512 with 3 channels and 1000 classes (torchvision's documentation)."""
    count = sum(weight.numel() for weight in resnet18().parameters())
    assert count == 11_689_512 - (3 - 1) * 64 * 7 * 7 - (512 + 1) * (1000 - 2) == 11_171_266
    assert sum(weight.numel() for weight in resnet18(1000, 3).parameters()) == 11_689_512


@pytest.mark.parametrize("groups", [None, 32])
def test_it_has_group_normalisation_throughout(groups: int | None) -> None:
    modules = list(resnet18(groups=groups).modules())
    assert not any(isinstance(module, _BatchNorm) for module in modules)
    norms = [module for module in modules if isinstance(module, nn.GroupNorm)]
    assert len({id(norm) for norm in norms}) == 20
    assert all(norm.num_groups == (groups or norm.num_channels) for norm in norms)
    convolutions = {id(module): module for module in modules if isinstance(module, nn.Conv2d)}.values()
    assert len(convolutions) == 20
    assert all(convolution.bias is None for convolution in convolutions)


def test_the_factory_takes_channels_first() -> None:
    x = images(channels=6)
    torch.testing.assert_close(group_norm(6, groups=2)(x), nn.functional.group_norm(x, 2))
    torch.testing.assert_close(group_norm(6)(x), nn.functional.instance_norm(x))


@pytest.mark.parametrize(("size", "deepest"), [(64, 2), (224, 7)])
def test_it_leaves_a_thirtysecond_of_the_size(size: int, deepest: int) -> None:
    network = resnet18()
    assert network(images(size=size)).shape == (2, 2)
    assert network.encoder(images(size=size)).shape == (2, 512, deepest, deepest)
    assert network.downsampling == (32, 32)


@pytest.mark.parametrize("mode", [True, False])
def test_samples_do_not_depend_on_their_batch_mates(mode: bool) -> None:
    torch.manual_seed(0)
    network, x = resnet18().train(mode), images()
    with torch.no_grad():
        torch.testing.assert_close(network(x), torch.cat([network(sample[None]) for sample in x]), rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("groups", [None, 32])
def test_it_learns_eight_random_images_by_heart(groups: int | None) -> None:
    torch.manual_seed(0)
    network, x, y = resnet18(groups=groups), images(8), torch.arange(8) % 2
    optimizer = torch.optim.SGD(network.parameters(), 0.01, momentum=0.9)
    for _ in range(14):
        loss = nn.functional.cross_entropy(network(x), y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    with torch.no_grad():
        assert (network.eval()(x).argmax(1) == y).all()
    assert loss < 0.3


def test_what_cannot_work_is_refused() -> None:
    with pytest.raises(ValueError, match="that is 1 channels"):
        resnet18()(images(channels=3))
    with pytest.raises(ValueError, match=r"multiple of \(32, 32\), got \(100, 100\)"):
        resnet18()(images(size=100))
    with pytest.raises(ValueError, match="leave 1 position"):
        resnet18()(images(size=32))
    assert resnet18(groups=32)(images(size=32)).shape == (2, 2)
    with pytest.raises(ValueError, match="a divisor of 64, got 1 and 48"):
        resnet18(groups=48)


def test_torchvision_is_not_needed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torchvision", None)
    for module in (head, resnet):
        assert module.__file__ is not None
        runpy.run_path(module.__file__)
