"""Sums slab by slab are those of the whole volume, as are their gradients, in the memory of a slab."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from live_bytes import LiveBytes
from torch import Tensor

from nnunet_ima.attacks.losses import LOSSES, bound
from nnunet_ima.attacks.temperature import spread
from nnunet_ima.tasks import slabs
from nnunet_ima.tasks.voxelwise import Labels, hard_dice, overlap_counts

KINDS = {
    "labels": Labels(),
    "ignore": Labels(ignore=9),
    "regions": Labels(regions=True),
    "regions, ignore": Labels(regions=True, ignore=9),
}
SHAPE = (7, 4, 5)  # slabs of two slices leave one


@pytest.fixture
def cut(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
    """Set the elements of a slab."""
    return lambda elements: monkeypatch.setattr(slabs, "ELEMENTS", elements)


def example(labels: Labels, samples: int = 2, channels: int = 3) -> tuple[Tensor, Tensor]:
    """Logits, and a target of which the first slice is ignored where something is."""
    generator = torch.Generator().manual_seed(0)
    logits = 2 * torch.randn(samples, channels, *SHAPE, generator=generator)
    shape = (samples, channels if labels.regions else 1, *SHAPE)
    target = torch.randint(2 if labels.regions else channels, shape, generator=generator)
    if labels.ignore is not None:
        target = torch.cat((target, torch.zeros_like(target[:, :1])), 1) if labels.regions else target
        target[:, -1, 0] = 1 if labels.regions else labels.ignore
    return logits, target


def gradient(loss: Callable[[Tensor], Tensor], logits: Tensor) -> tuple[Tensor, Tensor]:
    leaf = logits.clone().requires_grad_()
    values = loss(leaf)
    weights = torch.arange(1.0, len(values) + 1)  # samples have a part of their own
    return values.detach(), torch.autograd.grad((values * weights).sum(), leaf)[0]


@pytest.mark.parametrize("elements", [1, 40, 125, 10**6])  # slices of 20 voxels, one or several or all at once
def test_sums_and_their_gradient_are_the_known_ones(elements: int, cut: Callable[[int], None]) -> None:
    cut(elements)
    z, target = torch.randn(1, 1, *SHAPE, dtype=torch.float64), torch.ones(1, 1, *SHAPE)
    z.requires_grad_()
    squares, count = slabs.summed(lambda a, b: ((a**2).sum(), b.sum()), z, target)
    assert float(squares.detach()) == pytest.approx(float((z.detach() ** 2).sum()))
    assert float(count.detach()) == 7 * 4 * 5
    torch.testing.assert_close(torch.autograd.grad(3 * squares / count, z)[0], 6 * z.detach() / 140)
    assert sum(part.stop - part.start >= 1 for part in slabs.slabs(z)) == {1: 7, 40: 4, 125: 2, 10**6: 1}[elements]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", sorted(LOSSES))
def test_losses_and_gradients_are_those_of_the_whole(name: str, kind: str, cut: Callable[[int], None]) -> None:
    labels = KINDS[kind]
    logits, target = example(labels)
    loss = bound(name, labels)
    whole = gradient(lambda z: loss(z, target, 0.6), logits)
    assert whole[1].abs().max() > 0
    for elements in (1, 2 * 2 * 3 * 20):
        cut(elements)
        torch.testing.assert_close(gradient(lambda z: loss(z, target, 0.6), logits), whole, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("kind", KINDS)
def test_scores_are_those_of_the_whole(kind: str, cut: Callable[[int], None]) -> None:
    labels = KINDS[kind]
    logits, target = example(labels)

    def found() -> tuple[Tensor, ...]:
        dice, present = hard_dice(logits, target, labels)
        return dice, present, overlap_counts(logits, target, labels), spread(logits, labels.regions)

    whole = found()
    cut(2 * 2 * 3 * 20)
    torch.testing.assert_close(found(), whole)


@pytest.mark.parametrize("kind", ["labels", "regions, ignore"])
@pytest.mark.parametrize("name", sorted(LOSSES))
def test_a_loss_needs_its_derivative_and_a_slab(name: str, kind: str, cut: Callable[[int], None]) -> None:
    """In volumes of the size of the logits, the logits one of them; probabilities and indicators would be more."""
    labels, channels = KINDS[kind], 30
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(1, channels, 40, 6, 7, generator=generator)
    shape = (1, channels + 1 if labels.regions else 1, 40, 6, 7)
    target = torch.randint(2 if labels.regions else channels, shape, generator=generator).to(torch.uint8)

    def volumes() -> float:
        with LiveBytes() as counted:
            leaf = logits.clone().requires_grad_()
            torch.autograd.grad(bound(name, labels)(leaf, target, 0.5).sum(), leaf)
        return counted.peak / (4 * logits.numel())

    assert volumes() > 3.5  # at once
    cut(channels * 6 * 7)
    assert 2 <= volumes() <= 2.8  # regions' targets, of which slabs are views, are a quarter of one


def test_scores_need_a_slab(cut: Callable[[int], None]) -> None:
    logits, target = torch.randn(1, 30, 40, 6, 7), torch.randint(30, (1, 1, 40, 6, 7))
    cut(30 * 6 * 7)
    with LiveBytes() as counted:
        hard_dice(logits, target, Labels())
        spread(logits)
    assert counted.peak <= 1.3 * 4 * logits.numel()  # slabs are views of the logits, which count
