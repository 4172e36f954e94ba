from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch

from nnunet_ima.attacks.noise import KINDS, draw_white_noise, white_noise
from nnunet_ima.attacks.problem import Problem

Make = Callable[..., Problem]


@pytest.mark.parametrize("norm", ["L2", "Linf"])
@pytest.mark.parametrize("kind", KINDS)
def test_noise_is_two_sided_with_mean_zero(linear: Make, generator: torch.Generator, kind: str, norm: str) -> None:
    noise = draw_white_noise(kind, linear(norm, shape=(1, 100, 100), samples=4), generator)
    for sample in noise:
        assert abs(sample.mean()) < 5 * sample.std() / 100  # standard errors
        assert 0.45 < (sample > 0).float().mean() < 0.55


@pytest.mark.parametrize("kind", KINDS)
def test_noise_uses_up_its_budget_on_the_elements_that_are_free(
    linear: Make, generator: torch.Generator, kind: str
) -> None:
    free = torch.zeros(1, 20, 20)
    free[:, :, :5] = 1
    problem = replace(linear(eps=0.3, shape=(1, 20, 20)), free=free)
    noise = draw_white_noise(kind, problem, generator)
    torch.testing.assert_close(problem.norm.size(noise), problem.eps)
    torch.testing.assert_close(noise[..., :5].square().mean((1, 2, 3)).sqrt(), problem.eps / 10)  # 100 are free
    assert noise[..., 5:].abs().max() == 0


@pytest.mark.parametrize("kind", KINDS)
def test_in_linf_both_kinds_have_nearly_the_same_rms(linear: Make, generator: torch.Generator, kind: str) -> None:
    noise = draw_white_noise(kind, linear("Linf", 0.3, shape=(1, 200, 200), samples=1), generator)
    assert noise.abs().max() <= 0.3
    assert noise.abs().max() > 0.299
    expected = {"uniform": 0.3 / 3**0.5, "gaussian": 0.16047}[kind]  # cut at √3 standard deviations
    assert noise.std().item() == pytest.approx(expected, rel=0.01)


@pytest.mark.parametrize("norm", ["L2", "Linf"])
@pytest.mark.parametrize("kind", KINDS)
def test_the_worst_draw_is_kept(segmentation: Make, generator: torch.Generator, kind: str, norm: str) -> None:
    problem = segmentation(norm=norm, eps=6.0 if norm == "L2" else 0.6)
    found = white_noise(problem, kind, draws=6, generator=generator)
    clean = problem.quality(problem.model(problem.x), problem.y)
    draws = found.trace.quality
    assert draws.shape == (6, 4)
    assert torch.equal(found.quality, draws.amin(0).minimum(clean))
    assert (draws.mean(0) > found.quality).any()
    assert torch.equal(problem.quality(problem.model(found.x), problem.y), found.quality)
    assert found.forward.tolist() == [7] * 4
    assert found.backward.tolist() == [0] * 4
    assert len(found.trace.loss) == 0


def test_a_broken_sample_stays_for_the_mean_of_all_draws(linear: Make, generator: torch.Generator) -> None:
    problem = linear(samples=5)
    problem = replace(problem, y=1 - problem.y)  # wrong from the start
    assert white_noise(problem, "uniform", draws=3, generator=generator).trace.quality.isfinite().all()


def test_unknown_noise_is_refused(linear: Make, generator: torch.Generator) -> None:
    with pytest.raises(ValueError, match="'pink'; known are uniform, gaussian"):
        draw_white_noise("pink", linear(), generator)
