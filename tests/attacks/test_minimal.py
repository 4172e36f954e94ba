from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial

import pytest
import torch

from nnunet_ima.attacks.losses import bound, cross_entropy
from nnunet_ima.attacks.minimal import minimal_eps
from nnunet_ima.attacks.pgd import pgd
from nnunet_ima.attacks.problem import Attacked, Problem
from nnunet_ima.tasks.voxelwise import Labels

Make = Callable[..., Problem]
THRESHOLD = 0.01


def attack_of(generator: torch.Generator, log: list[torch.Tensor] | None = None) -> Callable[..., Attacked]:
    def attack(problem: Problem, start: torch.Tensor | None) -> Attacked:
        if log is not None:
            log.append(problem.eps)
        return pgd(problem, cross_entropy, steps=20, generator=generator, start=start)

    return attack


def distance(problem: Problem) -> torch.Tensor:
    """Distance of each sample to where a linear classifier's lead falls to the threshold."""
    difference = problem.model.weight[0] - problem.model.weight[1]
    dual = difference.norm() if problem.norm.name == "L2" else difference.abs().sum()
    return (problem.quality(problem.model(problem.x), problem.y) - THRESHOLD).clamp_min(0) / dual


@pytest.mark.parametrize("norm", ["L2", "Linf"])
def test_on_a_linear_model_the_distance_to_the_boundary_is_found(
    linear: Make, generator: torch.Generator, norm: str
) -> None:
    problem = linear(norm)
    true = distance(problem)
    high = torch.full((40,), float(true.median()))
    found = minimal_eps(
        lambda eps: replace(problem, eps=eps),
        attack_of(generator),
        low=torch.zeros(40),
        high=high,
        threshold=THRESHOLD,
        tolerance=0.02,
        rounds=12,
    )
    within = true < 0.99 * high
    assert found.eps[within].isfinite().all()
    assert (found.eps[within] <= 1.03 * true[within] + 1e-6).all()
    assert (found.eps >= 0.999 * true - 1e-6).all()
    assert found.eps[true > high].isinf().all()
    assert (found.noise[true > high] == 0).all()


def test_what_is_returned_was_seen_to_break(segmentation: Make, generator: torch.Generator) -> None:
    problem = segmentation()
    found = minimal_eps(
        lambda eps: replace(problem, eps=eps),
        lambda at, start: pgd(at, bound("dice_ce", Labels()), steps=10, generator=generator, start=start),
        low=torch.zeros(4),
        high=torch.full((4,), 16.0),
        threshold=0.6,
        tolerance=0.05,
    )
    quality = problem.quality(problem.model(problem.x + found.noise), problem.y)
    assert found.eps.isfinite().all()
    assert (quality < 0.6).all()
    assert torch.equal(quality, found.quality)
    torch.testing.assert_close(problem.norm.size(found.noise), found.eps)


def test_scaled_noise_that_still_breaks_costs_no_gradients(linear: Make, generator: torch.Generator) -> None:
    problem, log = linear(samples=1), []
    true = distance(problem)
    difference = problem.model.weight[0] - problem.model.weight[1]
    direction = difference * (2 * problem.y - 1) / difference.norm()
    high = 4 * true
    found = minimal_eps(
        lambda eps: replace(problem, eps=eps),
        attack_of(generator, log),
        low=1.01 * true,
        high=high,
        known=direction[None] * high,
        threshold=THRESHOLD,
        tolerance=0.01,
        rounds=20,
    )
    assert log == []
    assert found.backward.item() == 0
    torch.testing.assert_close(found.eps, 1.01 * true, rtol=0.02, atol=0)


def test_an_attack_ends_as_soon_as_it_breaks(linear: Make, generator: torch.Generator) -> None:
    problem = linear(samples=1)
    high = 3 * distance(problem)
    found = minimal_eps(
        partial(lambda problem, eps: replace(problem, eps=eps), problem),
        attack_of(generator),
        low=torch.zeros(1),
        high=high,
        threshold=THRESHOLD,
        rounds=0,
    )
    assert found.eps <= high
    assert found.backward < 20


def test_a_sample_broken_already_needs_no_noise(linear: Make, generator: torch.Generator) -> None:
    problem = linear(samples=2)
    problem = replace(problem, y=1 - problem.y)
    found = minimal_eps(
        lambda eps: replace(problem, eps=eps),
        attack_of(generator),
        low=torch.zeros(2),
        high=torch.ones(2),
        threshold=THRESHOLD,
    )
    assert found.eps.tolist() == [0, 0]
    assert found.noise.abs().max() == 0
    assert found.forward.tolist() == [2, 2]


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"threshold": 0.0}, "threshold"),
        ({"tolerance": -1.0}, "tolerance"),
        ({"low": torch.ones(1) * 9}, "low at most"),
    ],
)
def test_what_makes_no_sense_is_refused(linear: Make, generator: torch.Generator, change: dict, says: str) -> None:
    problem = linear(samples=1)
    options = {"low": torch.zeros(1), "high": torch.ones(1), "threshold": 0.5} | change
    with pytest.raises(ValueError, match=says):
        minimal_eps(lambda eps: replace(problem, eps=eps), attack_of(generator), **options)
