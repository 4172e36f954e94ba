from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch

from nnunet_ima.attacks.pgd import pgd
from nnunet_ima.attacks.problem import Problem
from nnunet_ima.attacks.spsa import spsa

Make = Callable[..., Problem]


def overtaking(logits: torch.Tensor, y: torch.Tensor, progress: float) -> torch.Tensor:
    true = logits.gather(1, y[:, None])[:, 0]
    return logits.scatter(1, y[:, None], -torch.inf).amax(1) - true


def distance(problem: Problem) -> torch.Tensor:
    """Distance of each sample to the boundary of a linear classifier."""
    difference = problem.model.weight[0] - problem.model.weight[1]
    dual = difference.norm() if problem.norm.name == "L2" else difference.abs().sum()
    return problem.quality(problem.model(problem.x), problem.y) / dual


def without_gradients(problem: Problem, rounding: float | None = None) -> Problem:
    """The same problem, whose model refuses gradients and may round its outputs."""
    model = problem.model

    def shielded(x: torch.Tensor) -> torch.Tensor:
        assert not torch.is_grad_enabled()
        logits = model(x)
        return logits if rounding is None else (logits / rounding).round() * rounding

    return replace(problem, model=shielded)


@pytest.mark.parametrize("shape", [(12,), (1, 6, 6)], ids=str)
@pytest.mark.parametrize("norm", ["L2", "Linf"])
def test_it_breaks_a_linear_model_just_above_its_distance_and_never_below(
    linear: Make, generator: torch.Generator, norm: str, shape: tuple[int, ...]
) -> None:
    problem = linear(norm, shape=shape)
    true = distance(problem)
    for factor, broken in ((1.1, True), (0.99, False)):
        at = without_gradients(replace(problem, eps=factor * true))
        found = spsa(at, overtaking, samples=64, steps=40, generator=generator)
        assert ((found.quality == 0) == broken).all()
        assert (problem.norm.size(found.x.double() - problem.x.double()) <= at.eps * (1 + 1e-6)).all()


def test_it_sees_through_rounding_that_blinds_gradients(linear: Make, generator: torch.Generator) -> None:
    problem = linear(shape=(1, 6, 6))
    problem = replace(problem, eps=1.5 * distance(problem) + 0.1)
    model = problem.model
    rounded = replace(problem, model=lambda x: (model(x) / 0.25).round() * 0.25)
    blind = pgd(rounded, overtaking, steps=40, generator=generator, random_start=False)
    found = spsa(without_gradients(problem, 0.25), overtaking, samples=64, steps=40, generator=generator)
    assert blind.trace.zero.sum() == blind.backward.sum()
    assert (found.quality == 0).float().mean() > 0.95
    assert (found.quality == 0).sum() > (blind.quality == 0).sum()


def test_passes_are_counted_and_broken_samples_leave(linear: Make, generator: torch.Generator) -> None:
    problem = linear(samples=4)
    true = distance(problem)
    eps = torch.where(torch.arange(4) < 2, 0.5, 3.0) * true
    found = spsa(replace(problem, eps=eps), overtaking, samples=8, steps=20, generator=generator)
    assert found.forward[:2].tolist() == [1 + 20 * (8 + 1)] * 2
    assert (found.forward[2:] < found.forward[0]).all()
    assert found.backward.tolist() == [0] * 4
    assert (found.trace.quality[:, :2].diff(dim=0) <= 0).all()


def test_the_batch_around_a_sample_changes_nothing(linear: Make) -> None:
    problem = linear(eps=0.05, samples=3)
    most, few = (
        spsa(problem, overtaking, samples=8, steps=6, chunk=chunk, generator=torch.Generator().manual_seed(1))
        for chunk in (256, 8)
    )
    torch.testing.assert_close(most.x, few.x)
    small = replace(problem, eps=torch.tensor([0.05, 0.0, 0.0]))
    alone = spsa(small, overtaking, samples=8, steps=6, generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(most.x[0], alone.x[0])
    assert torch.equal(alone.x[1:], problem.x[1:])


def test_noise_stays_where_it_is_free(linear: Make, generator: torch.Generator) -> None:
    problem = linear(shape=(1, 6, 6))
    free = torch.zeros(1, 1, 6, 6)
    free[..., 2:] = 1
    found = spsa(replace(problem, free=free), overtaking, samples=8, steps=5, generator=generator)
    assert torch.equal(found.x[..., :2], problem.x[..., :2])


@pytest.mark.parametrize("options", [{"samples": 3}, {"samples": 0}, {"steps": 0}, {"chunk": 1}], ids=str)
def test_what_makes_no_sense_is_refused(linear: Make, generator: torch.Generator, options: dict[str, int]) -> None:
    with pytest.raises(ValueError, match="at least"):
        spsa(linear(), overtaking, generator=generator, **({"samples": 4, "steps": 1} | options))
