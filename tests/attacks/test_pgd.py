from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch

from nnunet_ima.attacks.losses import cross_entropy
from nnunet_ima.attacks.pgd import pgd
from nnunet_ima.attacks.problem import Problem
from nnunet_ima.perturbation.norms import NORMS

Make = Callable[..., Problem]


def optimum(problem: Problem) -> torch.Tensor:
    """The lowest lead that noise can leave to the true class of a linear classifier."""
    difference = problem.model.weight[0] - problem.model.weight[1]
    dual = difference.norm() if problem.norm.name == "L2" else difference.abs().sum()
    before = problem.quality(problem.model(problem.x), problem.y)
    return (before - problem.eps * dual).clamp_min(0)


@pytest.mark.parametrize("norm", ["L2", "Linf"])
@pytest.mark.parametrize(
    "options",
    [{"steps": 50}, {"steps": 10, "random_start": False}, {"steps": 1, "step_factor": 1.0, "random_start": False}],
    ids=["pgd", "ifgsm", "fgsm"],
)
def test_on_a_linear_model_the_known_worst_noise_is_found(
    linear: Make, generator: torch.Generator, norm: str, options: dict
) -> None:
    problem = linear(norm)
    found = pgd(problem, cross_entropy, generator=generator, **options)
    torch.testing.assert_close(found.quality, optimum(problem), atol=0.02, rtol=0.02)
    assert torch.equal(problem.quality(problem.model(found.x), problem.y), found.quality)


def test_a_small_step_is_a_step(linear: Make, generator: torch.Generator) -> None:
    problem = linear(eps=1.0)
    found = pgd(problem, cross_entropy, steps=100, generator=generator, random_start=False, step_factor=1.0)
    alive = found.quality > 0
    torch.testing.assert_close(problem.norm.size(found.x - problem.x)[alive], problem.eps[alive])


def test_the_worst_iterate_is_kept_not_the_last(linear: Make, generator: torch.Generator) -> None:
    problem, seen = linear(), []

    def quality(logits: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        """Best at the boundary of the ball: the clean sample is the worst of all."""
        value = 100 - (logits * torch.nn.functional.one_hot(y, 2)).sum(1) + logits.sum(1) / 2
        seen.append(value)
        return value

    found = pgd(replace(problem, quality=quality), cross_entropy, steps=5, generator=generator)
    torch.testing.assert_close(found.quality, torch.stack(seen).amin(0))


def test_a_sample_without_quality_left_is_left_alone(linear: Make, generator: torch.Generator) -> None:
    problem, sizes = linear(eps=1e-3, samples=6), []

    def model(z: torch.Tensor) -> torch.Tensor:
        sizes.append(len(z))
        return problem.model(z)

    y = problem.y.clone()
    y[:2] = 1 - y[:2]  # wrong from the start
    found = pgd(replace(problem, model=model, y=y), cross_entropy, steps=4, generator=generator)
    assert torch.equal(found.x[:2], problem.x[:2])
    assert sizes == [6] + [4] * 5


def test_a_zero_gradient_at_the_start_is_no_trap(generator: torch.Generator) -> None:
    """Far from a sample the loss has a slope, at the sample it has none."""
    x = torch.zeros(4, 1, 6, 6)
    problem = Problem(
        model=lambda z: z.flatten(1).square().sum(1, keepdim=True),
        x=x,
        y=torch.zeros(4),
        eps=torch.ones(4),
        norm=NORMS["L2"],
        quality=lambda logits, _: 2 - logits[:, 0],
        free=torch.arange(36).reshape(6, 6) % 2,
    )
    found = pgd(problem, lambda z, y, _: z[:, 0], steps=10, generator=generator, random_start=False)
    torch.testing.assert_close(found.quality, torch.ones(4))
    assert found.trace.zero.tolist() == [1] * 4
    assert (found.x * (1 - problem.free) == 0).all()


def test_noise_stays_where_it_is_free(linear: Make, generator: torch.Generator) -> None:
    problem = linear()
    free = torch.zeros(1, 12)
    free[:, :3] = 1
    noise = pgd(replace(problem, free=free), cross_entropy, steps=9, generator=generator).x - problem.x
    assert noise[:, 3:].abs().max() == 0
    assert noise[:, :3].abs().max() > 0


def test_known_noise_is_where_it_begins(linear: Make, generator: torch.Generator) -> None:
    problem, seen = linear(samples=3), []

    def model(z: torch.Tensor) -> torch.Tensor:
        seen.append(z.detach().clone())
        return problem.model(z)

    start = torch.randn(problem.x.shape, generator=generator) * 0.01
    pgd(replace(problem, model=model), cross_entropy, steps=1, generator=generator, start=start)
    torch.testing.assert_close(seen[1], problem.x + start)


def test_same_seed_same_noise(linear: Make) -> None:
    first, again = (
        pgd(linear(), cross_entropy, steps=9, generator=torch.Generator().manual_seed(0)).x for _ in range(2)
    )
    assert torch.equal(first, again)


def test_no_steps_are_refused(linear: Make, generator: torch.Generator) -> None:
    with pytest.raises(ValueError, match="at least 1"):
        pgd(linear(), cross_entropy, steps=0, generator=generator)
