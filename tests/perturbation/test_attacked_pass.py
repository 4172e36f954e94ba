"""Gradients of attacks through networks in half precision, against those in single precision."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from nnunet_ima.perturbation.ascent import input_gradient
from nnunet_ima.perturbation.half_precision import HALF, attacked_pass
from nnunet_ima.tasks.classification import Classification
from nnunet_ima.tasks.segmentation import Segmentation

CPU = torch.device("cpu")


@pytest.fixture(params=[torch.float16, torch.bfloat16], ids=str)
def half(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> torch.dtype:
    """The CPU computes in half precision, as CUDA does."""
    monkeypatch.setitem(HALF, "cpu", request.param)
    return request.param


def network(classes: int) -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(1, 8, 3, padding=1), nn.InstanceNorm2d(8, affine=True), nn.LeakyReLU(), nn.Conv2d(8, classes, 1)
    )


def cosines(found: Tensor, expected: Tensor) -> Tensor:
    found, expected = (gradient.flatten(1).double() for gradient in (found, expected))
    return (found * expected).sum(1) / (found.norm(dim=1) * expected.norm(dim=1))


@pytest.mark.parametrize("factor", [1e-12, 1e-6, 1.0, 1e6, 1e12])
def test_gradients_of_any_size_come_through(half: torch.dtype, factor: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each sample's has its own size; one of them has none."""
    model, x = network(3), torch.randn(3, 1, 16, 16)
    weight = torch.randn(3, 3, 16, 16) * torch.tensor([factor, 0, 100 * factor]).view(-1, 1, 1, 1)

    def gradient() -> Tensor:
        leaf = x.clone().requires_grad_()
        logits = attacked_pass(model, leaf)
        assert logits.dtype == torch.float32
        (found,) = torch.autograd.grad((logits * weight).sum(), leaf)
        assert found.dtype == torch.float32
        return found

    found = gradient()
    monkeypatch.delitem(HALF, "cpu")
    expected = gradient()
    assert not found[1].any()
    assert (cosines(found, expected)[[0, 2]] > 0.999).all()
    sizes = [torch.linalg.vector_norm(entry.flatten(1), dim=1)[[0, 2]] for entry in (found, expected)]
    torch.testing.assert_close(*sizes, rtol=0.02, atol=0)


def test_a_tiny_structure_in_a_large_patch(half: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its Dice has gradients that are, on the scale of a mean over voxels, above what float16 can hold."""
    model, x = network(2), torch.randn(1, 1, 640, 640)
    target = torch.zeros(1, 1, 640, 640, dtype=torch.long)
    target[..., 320, 320] = 1
    with torch.no_grad():
        model[3].bias.copy_(torch.tensor([6.0, -6.0]))  # hardly any foreground is predicted

    def gradient() -> Tensor:
        leaf = x.clone().requires_grad_()
        return input_gradient(Segmentation().loss(attacked_pass(model, leaf), target), leaf)

    found = gradient()
    monkeypatch.delitem(HALF, "cpu")
    expected = gradient()
    assert found.isfinite().all()
    assert cosines(found, expected) > 0.98


def test_a_weighted_class_of_large_images(half: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    """A classifier's gradient is no mean over pixels, but counts as many times: 2 · 224² is above 65504."""
    model = nn.Sequential(network(2), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    with torch.no_grad():
        model[0][3].bias.copy_(torch.tensor([4.0, -4.0]))
    x, y, task = torch.randn(2, 1, 224, 224), torch.ones(2, dtype=torch.long), Classification(torch.tensor([0.7, 2.0]))

    def gradient() -> Tensor:
        leaf = x.clone().requires_grad_()
        return input_gradient(task.loss(attacked_pass(model, leaf), y), leaf)

    found = gradient()
    monkeypatch.delitem(HALF, "cpu")
    expected = gradient()
    assert found.isfinite().all()
    assert (cosines(found, expected) > 0.98).all()


def test_a_gradient_that_is_not_finite_stays_so(half: torch.dtype) -> None:
    model, leaf = network(2), torch.randn(2, 1, 8, 8, requires_grad=True)
    logits = attacked_pass(model, leaf)
    weight = torch.ones_like(logits)
    weight[0, 0, 0, 0] = torch.nan
    (found,) = torch.autograd.grad((logits * weight).sum(), leaf)
    assert found[0].isnan().any()
    assert found[1].isfinite().all()


def test_nothing_changes_in_single_precision() -> None:
    model, leaf = network(2), torch.randn(2, 1, 8, 8, requires_grad=True)
    weight = torch.randn(2, 2, 8, 8)
    (found,) = torch.autograd.grad((attacked_pass(model, leaf) * weight).sum(), leaf)
    (expected,) = torch.autograd.grad((model(leaf) * weight).sum(), leaf)
    assert torch.equal(found, expected)
    with torch.no_grad():
        assert not attacked_pass(model, leaf).requires_grad
