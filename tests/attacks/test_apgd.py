from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch

from nnunet_ima.attacks.apgd import LARGE_TO_SMALL, _Search, apgd, checkpoints
from nnunet_ima.attacks.losses import bound, cross_entropy
from nnunet_ima.attacks.pgd import pgd
from nnunet_ima.attacks.problem import Problem
from nnunet_ima.perturbation.norms import NORMS
from nnunet_ima.tasks.voxelwise import Labels

Make = Callable[..., Problem]


def test_checkpoints_are_the_papers() -> None:
    assert checkpoints(100) == [0, 22, 41, 57, 70, 80, 87, 93, 99]
    assert checkpoints(50) == [0, 11, 21, 29, 35, 40, 44, 47]
    assert checkpoints(1) == [0]


@pytest.mark.parametrize("norm", ["L2", "Linf"])
@pytest.mark.parametrize("radii", [None, LARGE_TO_SMALL])
def test_on_a_linear_model_the_known_worst_noise_is_found(
    linear: Make, generator: torch.Generator, norm: str, radii: tuple | None
) -> None:
    problem = linear(norm)
    difference = problem.model.weight[0] - problem.model.weight[1]
    dual = difference.norm() if norm == "L2" else difference.abs().sum()
    found = apgd(problem, cross_entropy, steps=50, generator=generator, radii=radii)
    before = problem.quality(problem.model(problem.x), problem.y)
    torch.testing.assert_close(found.quality, (before - 0.2 * dual).clamp_min(0), atol=1e-3, rtol=1e-3)
    assert (problem.norm.size(found.x.double() - problem.x) <= 0.2 * (1 + 1e-6)).all()


def inner_optimum(target: torch.Tensor, eps: float) -> Problem:
    """Quality is the distance to a target."""
    return Problem(
        model=lambda z: z,
        x=torch.zeros_like(target),
        y=target,
        eps=torch.full((len(target),), eps),
        norm=NORMS["L2"],
        quality=lambda z, y: (z - y).flatten(1).norm(dim=1),
    )


def closeness(z: torch.Tensor, y: torch.Tensor, progress: float) -> torch.Tensor:
    return -(z - y).flatten(1).square().sum(1)


def test_the_step_size_shrinks_until_an_inner_optimum_is_met(generator: torch.Generator) -> None:
    target = torch.randn(3, 5, generator=generator)
    target = target / target.norm(dim=1, keepdim=True) * torch.tensor([0.1, 0.5, 5.0])[:, None]
    found = apgd(inner_optimum(target, 1.0), closeness, steps=100, generator=generator)
    fixed = pgd(inner_optimum(target, 1.0), closeness, steps=100, generator=generator, step_factor=200.0)
    # a step has the fixed size 2 · ε at first; halved at each checkpoint of 100 steps, 2 · ε / 2⁸
    assert (found.quality[:2] < 0.02).all()
    assert (fixed.quality[:2] > found.quality[:2]).all()
    torch.testing.assert_close(found.quality[2], torch.tensor(4.0), atol=1e-3, rtol=0)  # at the boundary


def test_a_failing_search_restarts_from_its_highest_loss(generator: torch.Generator) -> None:
    seen = []

    def loss(z: torch.Tensor, y: torch.Tensor, progress: float) -> torch.Tensor:
        seen.append(z.detach().clone())
        return closeness(z, y, progress)

    target = torch.tensor([[0.1, 0.05]])
    apgd(inner_optimum(target, 1.0), loss, steps=50, generator=generator)
    path = torch.cat(seen)
    losses = closeness(path, target, 0)
    best = path[: 11 + 1][losses[: 11 + 1].argmax()]
    # the first checkpoint is at step 11: the next point is a step of 1 (0.75 of it, and momentum) from the best one
    previous = path[10]
    gradient = target[0] - best
    z = best + gradient / gradient.norm()
    z = z / z.norm().clamp_min(1)
    expected = best + 0.75 * (z - best) + 0.25 * (best - previous)
    torch.testing.assert_close(path[12], expected / expected.norm().clamp_min(1), atol=1e-5, rtol=1e-5)
    # the momentum of the step after it comes from the best point, not from the one that was left
    gradient = target[0] - path[12]
    z = path[12] + gradient / gradient.norm()
    z = z / z.norm().clamp_min(1)
    expected = path[12] + 0.75 * (z - path[12]) + 0.25 * (path[12] - best)
    torch.testing.assert_close(path[13], expected / expected.norm().clamp_min(1), atol=1e-5, rtol=1e-5)


def test_rising_without_a_new_best_halves_every_other_check() -> None:
    """Condition 2: it asks for a step size that the last check has left alone, and the first check has none before."""
    search, both = _Search(torch.zeros(2, 1), torch.full((2,), 2.0)), torch.arange(2)
    losses = torch.arange(32.0)[:, None].repeat(1, 2)
    losses[0, 0] = 90  # the first sample's best ever
    sizes = []
    for number, loss in enumerate(losses):
        search.visit(both, torch.zeros(2, 1), loss, torch.zeros(2, 1))
        if number % 8 == 7:
            search.check(both, 8)
            sizes.append(search.size.tolist())
    assert sizes == [[2.0, 2.0], [1.0, 2.0], [1.0, 2.0], [0.5, 2.0]]


def test_only_what_lies_in_the_true_ball_competes(segmentation: Make, generator: torch.Generator) -> None:
    problem = segmentation(eps=0.7)
    found = apgd(problem, bound("dice", Labels()), steps=50, generator=generator, radii=LARGE_TO_SMALL)
    assert (problem.norm.size(found.x.double() - problem.x) <= 0.7 * (1 + 1e-6)).all()
    assert torch.equal(problem.quality(problem.model(found.x), problem.y), found.quality)
    clean = problem.quality(problem.model(problem.x), problem.y)
    assert torch.equal(found.trace.quality[:30], clean.expand(30, -1))  # the first 15 + 15 steps lie outside
    assert found.backward.tolist() == [50] * 4


def test_a_zero_gradient_at_the_start_is_no_trap(generator: torch.Generator) -> None:
    problem = replace(inner_optimum(torch.zeros(2, 4), 1.0), quality=lambda z, _: 2 - z.norm(dim=1))
    start = torch.zeros(2, 4)
    found = apgd(problem, lambda z, y, _: z.square().sum(1), steps=30, generator=generator, start=start)
    torch.testing.assert_close(found.quality, torch.ones(2))


@pytest.mark.parametrize("radii", [((2.0, 1.0),), ((2.0, 0.5), (1.0, 0.6))])
def test_radii_that_do_not_fit_are_refused(linear: Make, generator: torch.Generator, radii: tuple) -> None:
    with pytest.raises(ValueError, match="radii must end at 1"):
        apgd(linear(), cross_entropy, steps=10, generator=generator, radii=radii)
