"""Noise on a few slices: on as many as asked, inside the ball, and where a linear model is most sensitive."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch

from nnunet_ima.attacks import few_slices as attack
from nnunet_ima.attacks.few_slices import SCOUTED, energy, few_slices, support
from nnunet_ima.attacks.losses import bound
from nnunet_ima.attacks.pgd import pgd
from nnunet_ima.attacks.problem import Problem
from nnunet_ima.perturbation.norms import NORMS
from nnunet_ima.tasks.voxelwise import Labels

LOSS = bound("trained", Labels())


@pytest.mark.parametrize(("norm", "eps"), [("L2", 1.5), ("Linf", 0.3)])
@pytest.mark.parametrize("share", [0.01, 0.25, 0.5])
def test_noise_is_on_as_many_slices_as_asked_and_inside_the_ball(
    segmentation: Callable[..., Problem], generator: torch.Generator, norm: str, eps: float, share: float
) -> None:
    problem = segmentation(3, norm, eps)
    found = few_slices(problem, LOSS, steps=8, generator=generator, share=share)
    noise = found.x - problem.x
    touched = noise.abs().amax((1, 3, 4)) > 0
    worse = found.quality < problem.quality(problem.model(problem.x), problem.y)
    assert worse.any()
    assert (touched[worse].sum(1) == max(1, round(share * 8))).all()
    assert (problem.norm.size(found.x.double() - problem.x) <= eps * (1 + 1e-6)).all()


def test_slices_are_those_that_noise_is_drawn_to(generator: torch.Generator) -> None:
    """Of a linear model the steepest noise is its weights: slices go by the weights' squares."""
    weights = torch.tensor([0.1, 3.0, 0.2, 1.0, 0.0, 0.5, 2.0, 0.3])[:, None, None].expand(8, 4, 4)
    x = torch.zeros(2, 1, 8, 4, 4)
    problem = Problem(
        model=lambda x: (x[:, 0] * weights).sum((1, 2, 3)),
        x=x,
        y=torch.zeros(2),
        eps=torch.tensor([1.0, 2.0]),
        norm=NORMS["L2"],
        quality=lambda logits, y: (100 - logits).clamp_min(0),
    )
    found = few_slices(problem, lambda logits, y, _: logits, steps=40, generator=generator, share=0.25)
    on = energy(found.x)
    assert [row.nonzero().flatten().tolist() for row in on] == [[1, 6], [1, 6]]
    best = problem.eps * (16 * (3.0**2 + 2.0**2)) ** 0.5  # the weights' norm on these slices, times ε
    torch.testing.assert_close(100 - found.quality, best, rtol=1e-3, atol=0)
    free = support(torch.tensor([[1.0, 3.0, 2.0]] * 2), 0.5, torch.zeros(2, 1, 3, 4))
    assert free.flatten(1).tolist() == [[0, 1, 1]] * 2


def test_where_spread_noise_changes_nothing_the_gradient_chooses(
    generator: torch.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A short attack on all slices that changes no voxel leaves no noise to choose them by."""
    weights, chosen = torch.tensor([0.1, 3.0, 0.2, 1.0, 0.0, 0.5, 2.0, 0.3])[:, None, None].expand(8, 4, 4), []
    monkeypatch.setattr(attack, "support", lambda *given: chosen.append(support(*given)) or chosen[0])
    problem = Problem(
        model=lambda x: (x[:, 0] * weights).sum((1, 2, 3)),
        x=torch.zeros(1, 1, 8, 4, 4),
        y=torch.zeros(1),
        eps=torch.tensor([1.0]),
        norm=NORMS["L2"],
        quality=lambda logits, y: torch.ones(len(logits)),
    )
    few_slices(problem, lambda logits, y, _: logits, steps=2, generator=generator, share=0.25)
    assert chosen[0].flatten().nonzero().flatten().tolist() == [1, 6]


def test_all_slices_are_no_restriction(segmentation: Callable[..., Problem]) -> None:
    problem, numbers = segmentation(3), torch.Generator().manual_seed(0)
    scout = pgd(problem, LOSS, steps=SCOUTED, generator=numbers)
    whole = pgd(problem, LOSS, steps=5, generator=numbers)
    found = few_slices(problem, LOSS, steps=5, generator=torch.Generator().manual_seed(0), share=1.0)
    assert torch.equal(found.x, whole.x)
    assert torch.equal(found.forward, whole.forward + scout.forward)


def test_where_noise_may_not_go_it_does_not(segmentation: Callable[..., Problem], generator: torch.Generator) -> None:
    problem = segmentation(3)
    free = torch.ones(8, 8, 8)
    free[:, :4] = 0
    found = few_slices(replace(problem, free=free), LOSS, steps=4, generator=generator, share=0.5)
    noise = found.x - problem.x
    assert (noise[:, :, :, :4] == 0).all()
    assert (noise != 0).any()


@pytest.mark.parametrize("share", [0.0, 1.5, float("nan")])
def test_what_is_no_share_is_refused(segmentation: Callable[..., Problem], share: float) -> None:
    with pytest.raises(ValueError, match="share must be above 0"):
        few_slices(segmentation(3), LOSS, steps=1, generator=torch.Generator(), share=share)


def test_samples_without_space_are_refused(linear: Callable[..., Problem]) -> None:
    with pytest.raises(ValueError, match=r"slices are looked for in samples \(B, C, \*spatial\), got shape \(40, 12\)"):
        few_slices(linear(), lambda z, y, _: z[:, 0], steps=1, generator=torch.Generator(), share=0.5)
