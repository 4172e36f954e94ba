from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch

from nnunet_ima.attacks.pgd import pgd
from nnunet_ima.attacks.problem import Attacked, Problem, Trace
from nnunet_ima.attacks.worst import Worst, worst_of
from nnunet_ima.perturbation.norms import NORMS


def identity(quality: Callable[[torch.Tensor], torch.Tensor], samples: int = 2, eps: float = 10.0) -> Problem:
    """A model that returns its one number; quality is a function of it."""
    x, y = torch.zeros(samples, 1), torch.zeros(samples)
    return Problem(lambda z: z, x, y, torch.full((samples,), eps), NORMS["L2"], lambda z, _: quality(z[:, 0]))


def climb_value(logits: torch.Tensor, y: torch.Tensor, progress: float) -> torch.Tensor:
    return logits[:, 0]


def test_a_later_weaker_look_never_replaces_a_stronger_one() -> None:
    worst = Worst(identity(lambda z: 5 - z))
    for value in (1.0, 3.0, 2.0):
        worst.look(torch.full((2, 1), value))
    assert worst.result().x.tolist() == [[3.0], [3.0]]
    assert worst.result().quality.tolist() == [2.0, 2.0]


def test_ties_keep_the_first_which_is_the_clean_sample() -> None:
    worst = Worst(identity(torch.ones_like))
    worst.look(torch.ones(2, 1))
    assert worst.result().x.tolist() == [[0.0], [0.0]]


def test_not_a_number_is_no_evidence() -> None:
    worst = Worst(identity(lambda z: torch.where(z == 0, 1.0, torch.nan)))
    worst.look(torch.ones(2, 1))
    assert worst.result().quality.tolist() == [1.0, 1.0]
    assert worst.result().x.tolist() == [[0.0], [0.0]]


def test_a_sample_of_quality_zero_leaves_and_its_trace_ends(generator: torch.Generator) -> None:
    problem = replace(identity(lambda z: (3 - z).clamp_min(0)), eps=torch.tensor([10.0, 1.0]))
    found = pgd(problem, climb_value, steps=8, generator=generator, random_start=False)
    assert found.quality.tolist() == [0.0, 2.0]
    assert found.forward.tolist() == [2 + 1, 10]  # clean, the start and the point at 5; clean, 8 steps and the last
    assert found.backward.tolist() == [1, 8]
    assert found.trace.loss[0].isfinite().all()
    assert found.trace.loss[1:, 0].isnan().all()
    assert found.trace.loss[:, 1].isfinite().all()
    assert found.trace.quality[1:, 0].isnan().all()


def test_the_trace_shows_gradients_that_are_zero_or_not_finite(generator: torch.Generator) -> None:
    factors = torch.tensor([0.0, torch.inf, 2.0])

    def loss(logits: torch.Tensor, y: torch.Tensor, progress: float) -> torch.Tensor:
        return logits[:, 0] * factors

    found = pgd(identity(lambda z: torch.full_like(z, 9.0), 3), loss, steps=5, generator=generator)
    assert found.trace.zero.tolist() == [5, 0, 0]
    assert found.trace.not_finite.tolist() == [0, 5, 0]
    torch.testing.assert_close(found.trace.gradient[:, 2], torch.full((5,), 2.0))
    assert not found.trace.gradient[:, 1].isfinite().any()
    assert found.x.isfinite().all()


def test_the_trace_holds_the_loss_at_each_step(generator: torch.Generator) -> None:
    found = pgd(identity(lambda z: 100 - z, 1), climb_value, steps=4, generator=generator, random_start=False)
    assert found.trace.loss[:, 0].tolist() == [0.0, 10.0, 10.0, 10.0]
    assert found.trace.quality[:, 0].tolist() == [100.0, 90.0, 90.0, 90.0]


def attacked(x: list[float], quality: list[float]) -> Attacked:
    empty, count = torch.empty(0, len(x)), torch.zeros(len(x), dtype=torch.long)
    trace = Trace(empty, empty, empty, count, count)
    return Attacked(torch.tensor(x)[:, None], torch.tensor(quality), trace, count, count)


@pytest.mark.parametrize("order", [[0, 1, 2], [2, 1, 0], [1, 0, 2]])
def test_the_worst_of_several_attacks_is_monotone(order: list[int]) -> None:
    results = [attacked([1.0, 2.0], [0.5, 0.1]), attacked([3.0, 4.0], [0.2, 0.9]), attacked([5.0, 6.0], [0.3, 0.2])]
    x, quality, number = worst_of([results[index] for index in order])
    assert x.tolist() == [[3.0], [2.0]]
    torch.testing.assert_close(quality, torch.tensor([0.2, 0.1]))
    assert [order[index] for index in number.tolist()] == [1, 0]


def test_equal_attacks_keep_the_first() -> None:
    x, _, number = worst_of([attacked([1.0], [0.5]), attacked([2.0], [0.5])])
    assert (x.item(), number.item()) == (1.0, 0)


def test_an_attack_gives_up_what_it_will_hardly_beat() -> None:
    """Quality falls by .01 a step: by .05 over the latter half of ten, so that .12 less is hoped for then."""
    problem = replace(identity(lambda z: 1 - z, samples=3), beat=torch.tensor([0.0, 0.77, 0.79]))
    worst, left = Worst(problem), []
    for step in range(12):
        worst.climb(torch.full((3, 1), 0.01 * step), climb_value, step / 100)
        left.append(worst.active.tolist())
    assert left[:10] == [[0, 1, 2]] * 10  # a tenth of the steps is done first
    assert left[10] == [2]
    assert worst.result().backward.tolist() == [10, 10, 12]
    assert worst.result().quality.tolist() == pytest.approx([0.9, 0.9, 0.89])


def test_steps_outside_the_ball_do_not_count_for_giving_up() -> None:
    worst = Worst(replace(identity(lambda z: 1 - z, samples=1), beat=torch.zeros(1)))
    for step in range(60):
        worst.climb(torch.zeros(1, 1), climb_value, step / 100, competes=False)
    for step in range(60, 64):
        worst.climb(torch.full((1, 1), 0.001 * step), climb_value, step / 100)
        assert not worst.done
    worst.climb(torch.full((1, 1), 0.064), climb_value, 0.65)
    assert worst.done


def test_nothing_is_given_up_where_there_is_nothing_to_beat() -> None:
    worst = Worst(identity(torch.ones_like))
    for step in range(40):
        worst.climb(torch.zeros(2, 1), climb_value, step / 40)
    assert worst.active.tolist() == [0, 1]
    few = Problem.take(replace(identity(torch.ones_like, 3), beat=torch.arange(3.0)), torch.tensor([0, 2]))
    assert few.beat is not None
    assert few.beat.tolist() == [0, 2]
