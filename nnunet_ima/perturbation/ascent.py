"""The one loop of gradient ascent inside a ball, which attacks and defences share."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from nnunet_ima.perturbation.draws import Draws
from nnunet_ima.perturbation.norms import Norm, per_sample

Climb = Callable[[int, Tensor], tuple[Tensor, Tensor]]
"""Number of the step and noise (B, C, *spatial) of all samples, to ascending indices (n,) of those that go on, and the
gradients (n, C, *spatial) of what is climbed, at their noise."""


def ascend(
    climb: Climb,
    noise: Tensor,
    *,
    norm: Norm,
    eps: Tensor,
    size: Tensor,
    steps: range,
    free: Tensor | None = None,
    draws: Draws | None = None,
) -> Tensor:
    """Move noise in steps of one size along the steepest direction, projected into the ball; in place.

    Args:
        climb: looks at the samples and gives the gradient; it says which samples go on, and none ends the ascent.
        noise: to begin from (B, C, *spatial), inside the ball and 0 where noise may not go.
        norm: of the ball.
        eps: radius (B,) of each sample's ball.
        size: of a step (B,).
        steps: their numbers, as `climb` hears them.
        free: 1 where noise may go and 0 elsewhere, broadcastable to one sample or to all; None: everywhere.
        draws: directions for samples whose gradient is zero; None: they stay where they are.

    Returns:
        The noise after the last step.
    """
    for number in steps:
        active, gradient = climb(number, noise)
        if len(active) == 0:
            break
        here = free[active] if free is not None and len(free) == len(noise) else free
        direction = steepest(norm, gradient, here, active, draws)
        moved = noise[active] + per_sample(size[active], direction) * direction
        noise[active] = norm.project(moved, eps[active])
    return noise


def steepest(norm: Norm, gradient: Tensor, free: Tensor | None, samples: Tensor, draws: Draws | None) -> Tensor:
    """Direction of size 1 (n, C, *spatial) in which to step, 0 where noise may not go.

    A zero gradient says nothing, and an attack that takes it for a direction never moves: with `draws`, any direction
    takes its place.

    Args:
        norm: says which direction is steepest.
        gradient: gradients (n, C, *spatial); entries that are not finite count as 0.
        free: 1 where noise may go, broadcastable to `gradient`; None: everywhere.
        samples: indices (n,) of the samples.
        draws: where random directions come from; None: nowhere.
    """
    gradient = gradient.nan_to_num(0, 0, 0)
    gradient = gradient if free is None else gradient * free
    lost = (gradient.flatten(1) == 0).all(1).nonzero()[:, 0] if draws is not None else samples[:0]
    if draws is not None and len(lost):
        gradient = gradient.index_copy(0, lost, draws.normal(samples[lost], gradient[lost]))
        gradient = gradient if free is None else gradient * free
    return norm.steepest(gradient)


def input_gradient(losses: Tensor, x: Tensor) -> Tensor:
    """Gradient (B, C, *spatial) of losses (B,) with respect to the samples, up to a factor; weights get none.

    The factor is the number of elements of a sample: a mean's tiny gradients would vanish in half precision.
    """
    (gradient,) = torch.autograd.grad(losses.sum() * x[0].numel(), x)
    return gradient
