from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from nnunet_ima.attacks.problem import Problem
from nnunet_ima.perturbation.norms import NORMS


def problem(x: torch.Tensor, eps: float = 1.0, norm: str = "L2", **options) -> Problem:
    y = torch.zeros(len(x), dtype=torch.long)
    return Problem(
        lambda z: z, x, y, torch.full((len(x),), eps), NORMS[norm], lambda logits, _: logits[:, 0], **options
    )


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"eps": torch.tensor([1.0, -1.0])}, "at least 0"),
        ({"eps": torch.tensor([1.0, torch.nan])}, "finite"),
        ({"eps": torch.tensor([1.0, torch.inf])}, "finite"),
        ({"eps": torch.tensor([1, 1])}, "floating-point"),
        ({"eps": torch.tensor(1.0)}, "2 samples"),
        ({"y": torch.zeros(3)}, "2 samples"),
        ({"x": torch.zeros(2, 3, dtype=torch.long)}, "floating-point"),
        ({"free": torch.ones(2, 4)}, "broadcastable"),
    ],
)
def test_what_does_not_fit_is_refused(change: dict, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        replace(problem(torch.zeros(2, 3)), **change)


@pytest.mark.parametrize("norm", ["L2", "Linf"])
@pytest.mark.parametrize("level", [0.0, 3.0, 1000.0, 1e6])
def test_rounding_the_sum_does_not_exceed_the_bound(norm: str, level: float) -> None:
    generator = torch.Generator().manual_seed(0)
    x = level + torch.randn(6, 2, 9, 9, generator=generator)
    eps = 0.05 if norm == "Linf" else 0.05 * 162**0.5
    at = problem(x, eps, norm)
    noisy = at.noisy(at.project(torch.randn(x.shape, generator=generator)))
    size = at.norm.size(noisy.double() - x.double())
    assert (size <= eps * (1 + 1e-6)).all()
    if level < 1e6:  # where rounding leaves something of the noise
        assert (size > 0.95 * eps).all()


def test_no_budget_no_noise() -> None:
    x = torch.randn(2, 1, 4, 4)
    at = problem(x, 0.0)
    assert torch.equal(at.noisy(at.project(torch.randn(x.shape))), x)


def test_noise_to_begin_from_is_projected_and_checked() -> None:
    at = problem(torch.zeros(2, 3), free=torch.tensor([[1.0, 1.0, 0.0]]))
    start = at.start(None, torch.full((2, 3), 5.0))
    torch.testing.assert_close(at.norm.size(start), torch.ones(2))
    assert (start[:, 2] == 0).all()
    for wrong in (torch.zeros(3), torch.full((2, 3), torch.nan)):
        with pytest.raises(ValueError, match="begin from"):
            at.start(None, wrong)


def test_some_samples_are_the_same_problem() -> None:
    x = torch.arange(6.0).reshape(3, 2)
    free = torch.tensor([[1.0, 0.0], [0.0, 1.0], [1.0, 1.0]])
    part = problem(x, free=free).take(torch.tensor([0, 2]))
    assert torch.equal(part.x, x[[0, 2]])
    assert torch.equal(part.free, free[[0, 2]])
