"""A tiny segmentation network on blobs of two classes, in 2D and 3D, and problems made of it."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache, partial

import pytest
import torch

from nnunet_ima.attacks.problem import Problem
from nnunet_ima.perturbation.norms import NORMS
from nnunet_ima.tasks.voxelwise import Labels, mean_dice_present, segmentation_loss

SHAPES = {2: (16, 16), 3: (8, 8, 8)}


def blobs(axes: int, samples: int, generator: torch.Generator) -> tuple[torch.Tensor, torch.Tensor]:
    """Images (B, 1, *spatial) about 0 that hold a block each of two classes, and their label maps."""
    shape = SHAPES[axes]
    y = torch.zeros(samples, 1, *shape, dtype=torch.long)
    for sample in y:
        for label in (1, 2):
            corner = [int(torch.randint(n // 2, (), generator=generator)) for n in shape]
            sample[(0, *(slice(c, c + n // 2 - label) for c, n in zip(corner, shape, strict=True)))] = label
    levels = torch.tensor([-0.6, 0.6, 2.0])
    return levels[y] + 0.25 * torch.randn(y.shape, generator=generator), y


@cache
def network(axes: int) -> torch.nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        conv = {2: torch.nn.Conv2d, 3: torch.nn.Conv3d}[axes]
        net = torch.nn.Sequential(conv(1, 8, 3, padding=1), torch.nn.GELU(), conv(8, 3, 3, padding=1))
        optimizer = torch.optim.Adam(net.parameters(), 2e-2)
        generator = torch.Generator().manual_seed(1)
        for _ in range(80):
            x, y = blobs(axes, 8, generator)
            optimizer.zero_grad()
            segmentation_loss(net(x), y, Labels()).mean().backward()
            optimizer.step()
    return net.eval().requires_grad_(False)


@pytest.fixture
def segmentation() -> Callable[..., Problem]:
    """Make a problem of the trained network: number of spatial axes, norm, ε, number of samples."""

    def make(axes: int = 2, norm: str = "L2", eps: float = 1.0, samples: int = 4) -> Problem:
        x, y = blobs(axes, samples, torch.Generator().manual_seed(2))
        quality = partial(mean_dice_present, labels=Labels())
        return Problem(network(axes), x, y, torch.full((samples,), eps), NORMS[norm], quality)

    return make


def lead(logits: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """Quality of a classifier: how far the true class leads, at least 0."""
    true = logits.gather(1, y[:, None])[:, 0]
    return (true - logits.scatter(1, y[:, None], -torch.inf).amax(1)).clamp_min(0)


@pytest.fixture
def linear() -> Callable[..., Problem]:
    """Make a problem of a linear classifier whose worst noise is known; `model.weight` is (2, features)."""

    def make(norm: str = "L2", eps: float = 0.2, shape: tuple[int, ...] = (12,), samples: int = 40) -> Problem:
        features = torch.Size(shape).numel()
        model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(features, 2, bias=False))
        model.weight = torch.randn(2, features, generator=torch.Generator().manual_seed(0))
        model[1].weight = torch.nn.Parameter(model.weight, requires_grad=False)
        x = torch.randn(samples, *shape, generator=torch.Generator().manual_seed(1))
        y = model(x).argmax(1)
        return Problem(model, x, y, torch.full((samples,), eps), NORMS[norm], lead)

    return make


@pytest.fixture
def generator() -> torch.Generator:
    return torch.Generator().manual_seed(3)
