"""WRN-28-4 has the original's weights; neither it nor the small CNN mixes images or changes with the mode."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from nnunet_ima.classification.small_cnn import SmallCNN
from nnunet_ima.classification.wide_resnet import WideResNet, wide_resnet


def original_weights(depth: int, width: int) -> int:
    """Weights of the original for ten classes and RGB, counted from the paper's table 1."""
    features, before, total = (16 * width, 32 * width, 64 * width), 16, 3 * 9 * 16
    for after in features:
        for number in range((depth - 4) // 6):
            total += 2 * before + 9 * before * after + 2 * after + 9 * after * after
            total += before * after if number == 0 and before != after else 0
            before = after
    return total + 2 * before + 10 * before + 10


@pytest.mark.parametrize(("depth", "width"), [(10, 1), (16, 2), (28, 4)])
def test_it_has_as_many_weights_as_the_original(depth: int, width: int) -> None:
    network = WideResNet(10, 3, depth, width)
    assert sum(weight.numel() for weight in network.parameters()) == original_weights(depth, width)
    convolutions = [module for module in network.modules() if isinstance(module, nn.Conv2d)]
    assert len([module for module in convolutions if module.kernel_size == (3, 3)]) == depth - 3


def test_the_last_maps_are_a_quarter_of_the_image() -> None:
    network = wide_resnet(10)
    maps = network.blocks(network.stem(torch.rand(1, 3, 32, 32)))
    assert maps.shape == (1, 256, 8, 8)
    with pytest.raises(ValueError, match="depth must be 6·n \\+ 4"):
        WideResNet(10, depth=20)


@pytest.mark.parametrize("make", [lambda: WideResNet(10, 3, 10, 1), lambda: SmallCNN(10, 3)])
def test_images_are_independent_and_modes_agree(make: type[nn.Module]) -> None:
    torch.manual_seed(0)
    network = make()
    x = torch.rand(4, 3, 32, 32)
    together = network.train()(x)
    assert torch.allclose(together, network.eval()(x))
    assert torch.allclose(together[2:3], network(x[2:3]), atol=1e-5)
    assert together.std() > 0


def test_the_small_cnn_takes_other_sizes() -> None:
    network = SmallCNN(10)
    assert [network(torch.rand(2, 1, size, size)).shape for size in (4, 8, 28, 32)] == [(2, 10)] * 4
    with pytest.raises(ValueError, match="at least 4×4 pixels, got \\(3, 3\\)"):
        network(torch.rand(1, 1, 3, 3))
