"""APGD: projected gradient descent that finds its own step size (Croce & Hein 2020, arXiv 2003.01690, Algorithm 1).

The large-to-small radius is from Croce & Hein 2021 (2103.01208), its split of the steps from Croce et al. 2023
(2306.12941).
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from nnunet_ima.attacks.pgd import check_steps
from nnunet_ima.attacks.problem import Attacked, Loss, Problem
from nnunet_ima.attacks.worst import Worst
from nnunet_ima.perturbation.ascent import steepest
from nnunet_ima.perturbation.draws import Draws
from nnunet_ima.perturbation.norms import per_sample

# Radius in units of ε, and its share of the steps.
LARGE_TO_SMALL = ((2.0, 0.3), (1.5, 0.3), (1.0, 0.4))
MOMENTUM, RHO = 0.75, 0.75


def apgd(
    problem: Problem,
    loss: Loss,
    *,
    steps: int,
    generator: torch.Generator,
    radii: Sequence[tuple[float, float]] | None = None,
    start: Tensor | None = None,
) -> Attacked:
    """Return, per sample, the first iterate of lowest quality in the ball around it.

    "Best" means two things: a failing search restarts from the iterate of highest loss, as in the paper; what is
    returned is the iterate of lowest quality.

    Args:
        problem: what to attack.
        loss: what to climb. It must keep its form over the steps, which SegPGD's does not.
        steps: gradient steps, of all radii together. Below about 50 the checkpoints degenerate.
        generator: source of the random start, and of directions where gradients are zero.
        radii: pairs of a radius in units of ε and its share of the steps, the last radius being 1, such as
            `LARGE_TO_SMALL`. Each is an APGD run of its own, from the previous one's iterate of highest loss,
            projected. Iterates compete at the radius 1 only: others lie outside the true ball. None: ε for all steps.
        start: noise (B, C, *spatial) to begin from instead of random noise; projected into the first ball.

    Raises:
        ValueError: `steps` is below 1, `radii` do not end at 1, their shares do not sum to 1, or `start` does not fit.
    """
    check_steps(steps)
    phases = _phases(steps, radii or ((1.0, 1.0),))
    noise = problem.start(generator, start, phases[0][0] * problem.eps)
    draws = Draws(len(noise), generator)
    worst = Worst(problem)
    done = 0
    for radius, count in phases:
        eps = radius * problem.eps
        noise = _run(worst, loss, problem.norm.project(noise, eps), eps, (done, count, steps), draws, radius == 1)
        done += count
    return worst.result()


def checkpoints(steps: int) -> list[int]:
    """Steps w_j = ⌈p_j N⌉ after which the step size may be halved, w_0 = 0 included."""
    shares = [0.0, 0.22]
    while shares[-1] < 1:
        shares.append(shares[-1] + max(shares[-1] - shares[-2] - 0.03, 0.06))
    found = [math.ceil(round(share * steps, 6)) for share in shares]  # 0.22 + 0.19 is above 0.41 by rounding
    return sorted({0, *(number for number in found if number < steps)})


def _phases(steps: int, radii: Sequence[tuple[float, float]]) -> list[tuple[float, int]]:
    """Radii in units of ε and their numbers of steps; the last takes what rounding leaves."""
    shares = [share for _, share in radii]
    if radii[-1][0] != 1 or abs(sum(shares) - 1) > 1e-6 or min(shares) < 0:
        msg = f"radii must end at 1 and their shares sum to 1, got {tuple(radii)}"
        raise ValueError(msg)
    counts = [int(share * steps + 1e-6) for share in shares]
    counts[-1] += steps - sum(counts)
    return [(radius, count) for (radius, _), count in zip(radii, counts, strict=True) if count]


def _run(
    worst: Worst, loss: Loss, noise: Tensor, eps: Tensor, part: tuple[int, int, int], draws: Draws, competes: bool
) -> Tensor:
    """APGD at one radius (B,); `part` says how many steps came before, belong to it, and make up the whole.

    Returns:
        Noise (B, C, *spatial) of highest loss.
    """
    before, steps, total = part
    problem = worst.problem
    search = _Search(noise, 2 * eps)
    previous = noise
    ends = checkpoints(steps)
    for number in range(steps):
        if worst.done:
            return search.best
        values, gradient = worst.climb(noise, loss, (before + number) / total, competes=competes)
        active = worst.active
        here = problem.take(active)
        search.visit(active, noise, values, gradient)
        gradient, now = search.gradient[active], noise
        if number in ends[1:]:
            back = search.check(active, number - ends[ends.index(number) - 1])
            now = noise.index_copy(0, back, search.best[back])
            search.gradient[back] = search.best_gradient[back]
            gradient = search.gradient[active]
        direction = steepest(problem.norm, gradient, here.free, active, draws)
        at, radius = now[active], eps[active]
        z = problem.norm.project(at + per_sample(search.size[active], at) * direction, radius)
        if number > 0:
            z = problem.norm.project(at + MOMENTUM * (z - at) + (1 - MOMENTUM) * (at - previous[active]), radius)
        previous, noise = now, now.index_copy(0, active, z)  # a restarted sample forgets what it has left
    if not worst.done and competes:
        worst.look(noise)
    return search.best


class _Search:
    """Step size of each sample, and what decides on it: its best point and how often its loss has risen."""

    def __init__(self, noise: Tensor, size: Tensor) -> None:
        self.size = size.clone()
        self.best = noise.clone()
        self.best_gradient = torch.zeros_like(noise)
        self.gradient = torch.zeros_like(noise)
        self.best_loss = torch.full(noise.shape[:1], -torch.inf, device=noise.device)
        self._loss = torch.full_like(self.best_loss, torch.inf)  # nothing rises above it
        self._rises = torch.zeros_like(self.best_loss)
        self._best_before = torch.full_like(self.best_loss, torch.nan)  # equals nothing
        self._halved = torch.ones_like(self.best_loss, dtype=torch.bool)

    def visit(self, active: Tensor, noise: Tensor, loss: Tensor, gradient: Tensor) -> None:
        """Take in losses (n,) and gradients (n, C, *spatial) of the active samples at their noise."""
        self._rises[active] += loss > self._loss[active]
        self._loss[active], self.gradient[active] = loss, gradient
        higher = loss > self.best_loss[active]
        found = active[higher]
        self.best_loss[found], self.best[found] = loss[higher], noise[found]
        self.best_gradient[found] = gradient[higher]

    def check(self, active: Tensor, steps: int) -> Tensor:
        """Halve the step size of samples that fail; returns their indices, to restart from their best point.

        Args:
            active: indices of the samples to check.
            steps: number of steps since the last checkpoint.
        """
        few_rises = self._rises < RHO * steps  # condition 1
        stuck = ~self._halved & (self._best_before == self.best_loss)  # condition 2
        failed = active[(few_rises | stuck)[active]]
        self._halved[active] = False
        self._halved[failed] = True
        self.size[failed] /= 2
        self._best_before[active] = self.best_loss[active]
        self._rises[active] = 0
        self._loss[failed] = self.best_loss[failed]
        return failed
