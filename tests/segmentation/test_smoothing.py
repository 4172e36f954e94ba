"""Randomised smoothing: the votes, the tests of all voxels, and what they promise, on models whose truth is known."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.stats import binomtest, norm
from torch import nn

from nnunet_ima.segmentation.smoothing import ABSTAINED, MajorityVote, Smoothing, certified


def test_a_majority_is_found_where_there_is_one() -> None:
    rng = np.random.default_rng(0)
    votes = rng.choice(4, (11, 500), p=(0.1, 0.6, 0.1, 0.2)).astype(np.int16)
    vote = MajorityVote((500,))
    for predicted in votes:
        vote.add(predicted)
    counts = np.stack([(votes == label).sum(0) for label in range(4)])
    clear = counts.max(0) > 11 / 2
    assert clear.any()
    assert np.array_equal(vote.candidates[clear], counts.argmax(0)[clear])


def test_the_radius_is_that_of_cohen() -> None:
    assert Smoothing(0.5).radius == pytest.approx(0.5 * norm.ppf(0.75))


@pytest.mark.parametrize("seed", range(3))
def test_holm_on_counts_is_holm_on_voxels(seed: int) -> None:
    rng, smoothing = np.random.default_rng(seed), Smoothing(1.0, samples=60, alpha=0.05)
    agreeing = rng.binomial(60, rng.choice((0.7, 0.9, 0.99, 1.0), 40)).astype(np.int16)
    p_values = [binomtest(int(count), 60, 0.75, "greater").pvalue for count in agreeing]
    passed, order = np.zeros(40, bool), np.argsort(p_values, kind="stable")
    for rank, voxel in enumerate(order):
        if p_values[voxel] > 0.05 / (40 - rank):
            break
        passed[voxel] = True
    assert 0 < passed.sum() < 40
    found = certified(np.arange(40), agreeing, smoothing)
    assert np.array_equal(found != ABSTAINED, passed)
    assert np.array_equal(found[passed], np.arange(40)[passed])


def test_the_probability_of_any_wrong_certificate_is_kept() -> None:
    """Every voxel lies exactly at τ, where none may be certified: the worst that can be."""
    rng, smoothing = np.random.default_rng(0), Smoothing(1.0, samples=50, alpha=0.1)
    wrong = [
        (certified(np.zeros(200), rng.binomial(50, smoothing.share, 200), smoothing) != ABSTAINED).any()
        for _ in range(500)
    ]
    assert np.mean(wrong) < 0.1 + 3 * np.sqrt(0.1 * 0.9 / 500)


def test_of_a_linear_model_nothing_nearer_to_the_boundary_is_certified() -> None:
    """A voxel's label is the sign of a linear function: the smallest noise that changes the majority is known."""
    generator, smoothing = torch.Generator().manual_seed(0), Smoothing(0.5, samples=200)
    weights, x = torch.randn((300, 40), generator=generator), torch.randn(40, generator=generator)
    distance = (weights @ x).abs() / weights.norm(dim=1)

    def predict() -> np.ndarray:
        return (weights @ (x + 0.5 * torch.randn(40, generator=generator)) > 0).numpy().astype(np.int16)

    vote, agreeing = MajorityVote((300,)), np.zeros(300, np.int16)
    for _ in range(smoothing.guesses):
        vote.add(predict())
    for _ in range(smoothing.samples):
        agreeing += predict() == vote.candidates
    found = certified(vote.candidates, agreeing, smoothing)
    safe = found != ABSTAINED
    assert safe.sum() > 50
    assert distance[safe].min() >= smoothing.radius
    assert np.array_equal(found[safe], (weights @ x > 0).numpy().astype(np.int16)[safe])


def test_no_attack_within_the_radius_flips_a_certified_voxel() -> None:
    """The smoothed model itself is attacked: gradient ascent on the mean over many copies, from several starts."""
    torch.manual_seed(1)
    model = nn.Sequential(nn.Conv2d(1, 8, 3, padding=1), nn.Tanh(), nn.Conv2d(8, 3, 3, padding=1)).requires_grad_(False)
    x, smoothing = 2 * torch.randn(1, 1, 12, 12), Smoothing(0.6, samples=150)

    def noisy(at: torch.Tensor, copies: int) -> torch.Tensor:
        return model(at + smoothing.sigma * torch.randn(copies, 1, 12, 12))

    votes = noisy(x, smoothing.guesses).argmax(1).numpy()
    vote = MajorityVote((12, 12))
    for predicted in votes:
        vote.add(predicted)
    agreeing = (noisy(x, smoothing.samples).argmax(1).numpy() == vote.candidates).sum(0)
    found = certified(vote.candidates, agreeing, smoothing)
    safe = torch.from_numpy(found != ABSTAINED)
    assert 20 < safe.sum() < 144
    label = torch.from_numpy(found.clip(0)).long()
    moved = 0
    for _ in range(4):
        delta = torch.randn_like(x)
        delta = smoothing.radius * delta / delta.norm()
        for _ in range(25):
            delta.requires_grad_()
            loss = nn.functional.cross_entropy(noisy(x + delta, 32).mean(0, keepdim=True), label[None])
            (gradient,) = torch.autograd.grad(loss, delta)
            delta = delta.detach() + 0.1 * smoothing.radius * gradient / gradient.norm()
            delta = smoothing.radius * delta / delta.norm()
        share = (noisy(x + delta, 4000).argmax(1) == label).float().mean(0)
        assert share[safe].min() > 0.5 - 0.03  # of 4000 copies
        moved += int((share[~safe] < 0.5).sum())
    assert moved > 0  # the attack does change what is not certified
