"""Gradient ascent as methods need it while they train; audits use `attacks.pgd`, which keeps the worst iterate."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from nnunet_ima.perturbation.ascent import ascend, input_gradient
from nnunet_ima.perturbation.norms import Norm

Model = Callable[[Tensor], Tensor]


class Climbed(NamedTuple):
    """Where an ascent has led.

    Attributes:
        x: samples (B, C, *spatial) after the last step.
        right: number (B,) of points, the start included, at which the model was right before a step; 0 unless asked.
        forward: forward passes spent on the batch, counted per sample.
        backward: backward passes, counted likewise.
    """

    x: Tensor
    right: Tensor
    forward: int
    backward: int


def climb(
    model: Model,
    x: Tensor,
    loss: Callable[[Tensor, Tensor], Tensor],
    *,
    norm: Norm,
    eps: Tensor,
    steps: int,
    factor: float,
    start: Tensor,
    free: Tensor | None = None,
    right: Callable[[Tensor, Tensor], Tensor] | None = None,
    patience: int | None = None,
) -> Climbed:
    """Climb a loss for some steps, each of size factor · ε / steps, projected into the ball.

    No gradient of a weight is computed, and none for a sample that has stopped.

    Args:
        model: samples to logits (B, K, ...).
        x: samples (B, C, *spatial).
        loss: logits of some samples and their indices (n,) to losses (n,).
        norm: of the ball.
        eps: radius (B,) of each sample's ball.
        steps: number of steps.
        factor: see above.
        start: noise (B, C, *spatial) to begin from, 0 where noise may not go; projected.
        free: 1 where noise may go, broadcastable to one sample; None: everywhere.
        right: logits of some samples and their indices (n,) to booleans (n,); None: nobody asks, and nothing is spent.
        patience: stop a sample that is wrong after so many further steps, which needs `right`; None: never.
    """
    left = torch.full((len(x),), steps if patience is None else patience, device=x.device)
    stood = torch.zeros_like(left)
    active = torch.arange(len(x), device=x.device)
    forward = backward = 0

    def look(number: int, noise: Tensor) -> tuple[Tensor, Tensor]:
        nonlocal active, forward, backward
        with torch.enable_grad():
            at = (x[active] + noise[active]).detach().requires_grad_()
            logits = model(at)
            forward += len(active)
            stays = torch.ones_like(active, dtype=torch.bool)
            if right is not None:
                correct = right(logits.detach(), active)
                stood[active] += correct
                stays = correct | (left[active] > 0)
                left[active] -= (~correct).long()
                active = active[stays]
                if len(active) == 0:
                    return active, noise[:0]
            gradient = input_gradient(loss(logits[stays], active), at)
        backward += len(active)
        return active, gradient[stays]

    noise = norm.project(start, eps)
    ascend(look, noise, norm=norm, eps=eps, size=factor * eps / steps, steps=range(steps), free=free)
    return Climbed(x + noise, stood, forward, backward)
