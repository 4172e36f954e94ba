from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch

from nnunet_ima.attacks.noise import white_noise
from nnunet_ima.attacks.problem import Problem
from nnunet_ima.attacks.square import square
from nnunet_ima.perturbation.norms import NORMS

Make = Callable[..., Problem]


def sum_of_halves(norm: str, shape: tuple[int, ...], eps: float, samples: int = 2) -> tuple[Problem, torch.Tensor]:
    """Quality rises with the sum over one half of the image and falls with that over the other; and the optimum."""
    weight = torch.ones(shape)
    weight[..., : shape[-1] // 2] = -1
    x = torch.randn(samples, *shape, generator=torch.Generator().manual_seed(0))

    def model(z: torch.Tensor) -> torch.Tensor:
        assert not torch.is_grad_enabled()
        return (z * weight).flatten(1).sum(1, keepdim=True)

    norms = {"L2": weight.numel() ** 0.5, "Linf": float(weight.numel())}
    problem = Problem(
        model,
        x,
        torch.zeros(samples),
        torch.full((samples,), eps),
        NORMS[norm],
        lambda z, _: (z[:, 0] + 1e3).clamp_min(0),
    )
    return problem, eps * torch.tensor(norms[norm])


@pytest.mark.parametrize("shape", [(2, 12, 12), (1, 6, 7, 8), (1, 40)], ids=str)
@pytest.mark.parametrize(("norm", "eps"), [("L2", 1.0), ("Linf", 0.1)])
def test_it_nears_the_optimum_without_gradients(
    generator: torch.Generator, shape: tuple[int, ...], norm: str, eps: float
) -> None:
    problem, best = sum_of_halves(norm, shape, eps)
    found = square(problem, problem.quality, queries=300, generator=generator)
    with torch.no_grad():
        before = problem.quality(problem.model(problem.x), problem.y)
    gain = (before - found.quality) / best
    white = white_noise(problem, "uniform", draws=300, generator=generator)
    assert (gain > {"L2": 0.3, "Linf": 0.6}[norm]).all()
    assert (gain <= 1 + 1e-3).all()
    assert (found.quality < white.quality).all()
    assert (problem.norm.size(found.x.double() - problem.x) <= eps * (1 + 1e-6)).all()
    assert found.backward.tolist() == [0, 0]
    assert found.forward.tolist() == [301, 301]
    assert (found.trace.quality.diff(dim=0) <= 0).all()


def test_a_score_other_than_quality_guides_it(generator: torch.Generator) -> None:
    """Quality that is flat until it is lost gives no direction; a margin does."""
    problem, best = sum_of_halves("Linf", (1, 10, 10), 0.1)
    with torch.no_grad():
        margin = problem.model(problem.x)[:, 0]
    goal = margin.min() - 0.7 * best
    problem = replace(
        problem,
        x=problem.x[margin.argmin()][None],
        y=problem.y[:1],
        eps=problem.eps[:1],
        quality=lambda z, _: (z[:, 0] > goal).float(),
    )
    found = square(problem, lambda z, _: z[:, 0], queries=500, generator=generator)
    assert found.quality.item() == 0
    assert found.forward.item() < 501  # it left


def test_noise_stays_where_it_is_free(generator: torch.Generator) -> None:
    for norm in ("L2", "Linf"):
        problem, _ = sum_of_halves(norm, (1, 10, 10), 0.5)
        free = torch.zeros(1, 1, 10, 10)
        free[..., 3:] = 1
        found = square(replace(problem, free=free), problem.quality, queries=30, generator=generator)
        assert torch.equal(found.x[..., :3], problem.x[..., :3])


def test_what_has_no_space_is_refused(linear: Make, generator: torch.Generator) -> None:
    problem = linear()
    with pytest.raises(ValueError, match="needs images"):
        square(problem, problem.quality, queries=5, generator=generator)
