"""Gradient ascent inside a ball, as methods need it while they train; audits use `attacks.pgd`, which keeps more."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor, nn

from nnunet_ima.perturbation.norms import Norm, per_sample


class Climbed(NamedTuple):
    """Where an ascent has led.

    Attributes:
        x: samples (B, C, *spatial) after the last step.
        right: number (B,) of points, the start included, at which the prediction was right before a step.
        forward: forward passes spent on the batch, counted per sample.
        backward: backward passes, counted likewise.
    """

    x: Tensor
    right: Tensor
    forward: int
    backward: int


def climb(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    loss: Callable[[Tensor, Tensor], Tensor],
    *,
    norm: Norm,
    eps: Tensor,
    steps: int,
    factor: float,
    start: Tensor,
    target: Tensor | None = None,
    patience: int | None = None,
) -> Climbed:
    """Climb a loss for some steps, each of size factor · ε / steps, projected into the ball.

    No gradient of a weight is computed, and none for a sample that has stopped.

    Args:
        model: samples to logits (B, K).
        x: samples (B, C, *spatial).
        y: classes (B,), which say when a prediction is right.
        loss: logits and targets to losses (B,).
        norm: of the ball.
        eps: radius (B,) of each sample's ball.
        steps: number of steps.
        factor: see above.
        start: noise (B, C, *spatial) to begin from; projected.
        target: targets (B, ...) of the loss; None: the classes.
        patience: stop a sample that is wrong after so many further steps; None: never.
    """
    target = y if target is None else target
    noise = norm.project(start, eps)
    size = factor * eps / steps
    left = torch.full_like(y, steps if patience is None else patience)
    right = torch.zeros_like(y)
    active = torch.arange(len(x), device=x.device)
    forward = backward = 0
    for _ in range(steps):
        with torch.enable_grad():
            at = (x[active] + noise[active]).detach().requires_grad_()
            logits = model(at)
            forward += len(active)
            correct = logits.detach().argmax(1) == y[active]
            right[active] += correct
            stays = correct | (left[active] > 0)
            left[active] -= (~correct).long()
            active = active[stays]
            if len(active) == 0:
                break
            # a sum over pixels, since the tiny gradients of a mean would vanish in half precision
            climbed = loss(logits[stays], target[active]).sum() * x[0].numel()
            (gradient,) = torch.autograd.grad(climbed, at)
        backward += len(active)
        direction = norm.steepest(gradient[stays].nan_to_num(0, 0, 0))
        noise[active] = norm.project(noise[active] + direction * per_sample(size[active], x), eps[active])
    return Climbed(x + noise, right, forward, backward)
