"""All of the noise on a few slices: most of the volume stays as it is.

The budget is that of any other attack, in the same norm. Its support is bounded besides, to a share of the slices along
the first axis of space, which nnU-Net makes the one across which slices lie. Which ones is decided at the clean image:
those where the loss has the largest gradient.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from nnunet_ima.attacks.pgd import pgd
from nnunet_ima.attacks.problem import Attacked, Loss, Problem
from nnunet_ima.perturbation.ascent import input_gradient

AXIS = 2  # of the slices in (B, C, *spatial)


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
        loss: what to climb, and by whose gradient slices are chosen; that costs a pass forward and one backward.
        steps: gradient steps.
        generator: source of the random start.
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
    free = support(slice_scores(problem, loss), share, problem.x)
    found = pgd(
        replace(problem, free=free if problem.free is None else free * problem.free),
        loss,
        steps=steps,
        generator=generator,
        start=start,
    )
    return replace(found, forward=found.forward + 1, backward=found.backward + 1)


def slice_scores(problem: Problem, loss: Loss) -> Tensor:
    """Squared L2 norm of the loss's gradient on each slice (B, slices), at the clean samples."""
    with torch.enable_grad():
        x = problem.x.detach().clone().requires_grad_()
        gradient = input_gradient(loss(problem.model(x), problem.y, 0.0), x)
    gradient = problem.masked(gradient.nan_to_num(0, 0, 0)).float()
    return gradient.square().movedim(AXIS, 1).flatten(2).sum(2)


def support(scores: Tensor, share: float, like: Tensor) -> Tensor:
    """1 on the slices of highest score (B, slices), 0 elsewhere, broadcastable to `like` (B, C, *spatial)."""
    count = max(1, round(share * scores.shape[1]))
    free = torch.zeros_like(scores).scatter(1, scores.topk(count, 1).indices, 1.0)
    return free.reshape(len(like), 1, -1, *[1] * (like.ndim - AXIS - 1)).to(like.dtype)
