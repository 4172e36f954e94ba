"""Projected gradient descent at a fixed ε (Madry et al. 2018, arXiv 1706.06083), per sample.

The fast gradient sign method (Goodfellow et al. 2015, 1412.6572) and its iterated form (Kurakin et al. 2017,
1607.02533) are its cases of 1 and 10 steps without a random start.
"""

from __future__ import annotations

import torch
from torch import Tensor

from nnunet_ima.attacks.problem import Attacked, Loss, Problem
from nnunet_ima.attacks.worst import Worst
from nnunet_ima.perturbation.ascent import ascend
from nnunet_ima.perturbation.draws import Draws


def pgd(
    problem: Problem,
    loss: Loss,
    *,
    steps: int,
    generator: torch.Generator,
    step_factor: float = 4.0,
    random_start: bool = True,
    start: Tensor | None = None,
) -> Attacked:
    """Return, per sample, the first iterate of lowest quality in the ball around it.

    All iterates compete, the clean sample and the random start included.

    Args:
        problem: what to attack.
        loss: what to climb.
        steps: gradient steps, each of size step_factor · ε / steps.
        generator: source of the random start, and of directions where gradients are zero.
        step_factor: see `steps`.
        random_start: begin anywhere in the ball instead of at the clean sample.
        start: noise (B, C, *spatial) to begin from instead of both; projected into the ball.

    Raises:
        ValueError: `steps` is below 1, or `start` does not fit.
    """
    check_steps(steps)
    noise = problem.start(generator if random_start else None, start)
    draws = Draws(len(noise), generator)
    worst = Worst(problem)

    def climb(number: int, noise: Tensor) -> tuple[Tensor, Tensor]:
        if worst.done:
            return worst.active, noise[:0]
        _, gradient = worst.climb(noise, loss, number / steps)
        return worst.active, gradient

    noise = ascend(
        climb,
        noise,
        norm=problem.norm,
        eps=problem.eps,
        size=step_factor * problem.eps / steps,
        steps=range(steps),
        free=problem.free,
        draws=draws,
    )
    if not worst.done:
        worst.look(noise)
    return worst.result()


def check_steps(steps: int) -> None:
    """Refuse an attack without steps.

    Raises:
        ValueError: `steps` is below 1.
    """
    if steps < 1:
        msg = f"steps must be at least 1, got {steps}"
        raise ValueError(msg)
