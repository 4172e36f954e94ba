"""All of the noise on a few slices: most of the volume stays as it is.

The budget is that of any other attack, in the same norm. Its support is bounded besides, to a share of the slices along
the first axis of space, which nnU-Net makes the one across which slices lie. Which ones is decided by a short attack
that may use all: those on which it puts most of its noise. On D4 that took Dice lower, in the mean of two models, than
the slices of the loss's largest gradient, or those that hold most of the structures (`results/d4_few_slices.md`). The
gradient decides where that attack has changed nothing.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from nnunet_ima.attacks.pgd import pgd
from nnunet_ima.attacks.problem import Attacked, Loss, Problem
from nnunet_ima.perturbation.ascent import input_gradient
from nnunet_ima.perturbation.norms import NORMS

AXIS = 2  # of the slices in (B, C, *spatial)
SCOUTED = 10  # steps of the short attack


def few_slices(
    problem: Problem,
    loss: Loss,
    *,
    steps: int,
    generator: torch.Generator,
    share: float,
    start: Tensor | None = None,
) -> Attacked:
    """Return, per sample, the first iterate of lowest quality of a projected gradient descent on a few slices.

    Args:
        problem: what to attack.
        loss: what to climb.
        steps: gradient steps, after those of the short attack that chooses the slices.
        generator: source of the random starts.
        share: of the slices that noise may go to, in (0, 1]; at least one is taken.
        start: noise (B, C, *spatial) to begin from.

    Raises:
        ValueError: `steps` is below 1, `share` is not a share, samples have no space, or `start` does not fit.
    """
    if not 0 < share <= 1:
        msg = f"share must be above 0 and at most 1, got {share}"
        raise ValueError(msg)
    if problem.x.ndim <= AXIS:
        msg = f"slices are looked for in samples (B, C, *spatial), got shape {tuple(problem.x.shape)}"
        raise ValueError(msg)
    # in the Euclidean norm, where noise gathers where it counts: others leave it everywhere
    growth = NORMS["L2"].growth(problem.x[0].numel()) / problem.norm.growth(problem.x[0].numel())
    anywhere = replace(problem, norm=NORMS["L2"], eps=problem.eps * growth)
    scout = pgd(anywhere, loss, steps=SCOUTED, generator=generator, start=start)
    scores = energy(scout.x - problem.x)
    # noise spread over all slices may change no voxel, and none is worse than the clean sample
    still = (scores.sum(1) == 0) & (scout.quality > 0)
    if len(rows := still.nonzero()[:, 0]):
        scores = scores.index_copy(0, rows, energy(_gradient(problem.take(rows), loss)))
    few = problem.confined(support(scores, share, problem.x))
    found = pgd(few, loss, steps=steps, generator=generator, start=start)
    forward, backward = found.forward + scout.forward, found.backward + scout.backward
    return replace(found, forward=forward + still, backward=backward + still)


def _gradient(problem: Problem, loss: Loss) -> Tensor:
    """Gradient (B, C, *spatial) without noise, 0 where noise may not go."""
    with torch.enable_grad():
        x = problem.x.detach().requires_grad_()
        gradient = input_gradient(loss(problem.model(x), problem.y, 0.0), x).nan_to_num(0, 0, 0)
    return gradient if problem.free is None else gradient * problem.free


def energy(noise: Tensor) -> Tensor:
    """Sum of squares on each slice (B, slices) of noise (B, C, *spatial)."""
    return noise.float().square().movedim(AXIS, 1).flatten(2).sum(2)


def support(scores: Tensor, share: float, like: Tensor) -> Tensor:
    """1 on the slices of highest score (B, slices), 0 elsewhere, broadcastable to `like` (B, C, *spatial)."""
    count = max(1, round(share * scores.shape[1]))
    free = torch.zeros_like(scores).scatter(1, scores.topk(count, 1).indices, 1.0)
    return free.reshape(len(like), 1, -1, *[1] * (like.ndim - AXIS - 1)).to(like.dtype)
