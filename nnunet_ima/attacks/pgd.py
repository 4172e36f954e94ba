"""Projected gradient descent at a fixed ε (Madry et al. 2018, arXiv 1706.06083), per sample."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from nnunet_ima.perturbation.norms import Norm, per_sample


def pgd(
    model: Callable[[Tensor], Tensor],
    x: Tensor,
    y: Tensor,
    eps: Tensor,
    *,
    norm: Norm,
    loss: Callable[[Tensor, Tensor], Tensor],
    quality: Callable[[Tensor, Tensor], Tensor],
    steps: int,
    generator: torch.Generator,
    step_factor: float = 4.0,
    free: Tensor | None = None,
) -> Tensor:
    """Return, per sample, the first iterate of lowest quality in the ball around it.

    A sample whose quality has reached 0 cannot get worse and leaves the batch, which changes no result.

    Args:
        model: samples to logits; must treat samples independently.
        x: samples (B, C, *spatial).
        y: targets (B, ...), as `loss` and `quality` read them.
        eps: radius (B,) of each ball.
        norm: the norm of the balls.
        loss: logits and targets to losses (B,), to climb.
        quality: logits and targets to numbers (B,), at least 0, that say how good the predictions are (hard Dice, say).
            All iterates compete, the clean sample and the random start included.
        steps: gradient steps, each of size step_factor · ε / steps.
        generator: source of the random start.
        step_factor: see `steps`.
        free: 1 where noise may go and 0 elsewhere, broadcastable to `x`; None: everywhere.
    """
    free = torch.ones_like(x) if free is None else free.expand_as(x)
    with torch.no_grad():
        worst = quality(model(x), y)
    best = torch.zeros_like(x)
    delta = norm.project(norm.random(x, generator) * free * per_sample(eps, x), eps)
    active = torch.arange(len(x), device=x.device)
    for number in range(steps + 1):
        active = active[worst[active] > 0]
        if len(active) == 0:
            break
        with torch.set_grad_enabled(number < steps):
            x_n = (x[active] + delta[active]).requires_grad_(number < steps)
            logits = model(x_n)
            found = quality(logits.detach(), y[active])
            better = active[found < worst[active]]
            best[better], worst[active] = delta[better], found.minimum(worst[active])
            if number == steps:
                break
            # a sum over voxels, since the mean's tiny gradients would vanish in half precision
            gradient = torch.autograd.grad(loss(logits, y[active]).sum() * x[0].numel(), x_n)[0]
        direction = norm.steepest(gradient.nan_to_num(0, 0, 0) * free[active])
        step = direction * per_sample(step_factor * eps[active] / steps, x)
        delta[active] = norm.project(delta[active] + step, eps[active])
    return x + best
