"""SPSA: gradient ascent on gradients that are estimated from outputs alone (Uesato et al. 2018, arXiv 1802.05666).

Random directions of many elements at once see through roundings, plateaus and other obstacles that make a true
gradient useless. Where it does better than a gradient attack, the gradients deceive.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from nnunet_ima.attacks.pgd import check_steps
from nnunet_ima.attacks.problem import Attacked, Loss, Problem
from nnunet_ima.attacks.worst import Worst
from nnunet_ima.perturbation.ascent import steepest
from nnunet_ima.perturbation.draws import Draws
from nnunet_ima.perturbation.norms import per_sample

# Size of a probe in units of ε (0.01 for ε = 8/255 in the paper), size of all steps together in units of ε, and the
# share that each estimate leaves of the former ones, all of which are noisy.
PROBE, STEP_FACTOR, MOMENTUM = 0.3, 4.0, 0.9


def spsa(
    problem: Problem, loss: Loss, *, samples: int, steps: int, generator: torch.Generator, chunk: int = 256
) -> Attacked:
    """Return, per sample, the first iterate of lowest quality in the ball around it.

    A step is one of normalised steepest ascent, of size 4 ε / steps, along the running mean of the estimates. Probes
    may leave the ball and do not compete; iterates do, the clean sample included. The trace holds the lowest quality
    after each step.

    Args:
        problem: what to attack, in L2 or L∞.
        loss: what to climb; one that does not saturate, such as a margin, is seen best.
        samples: probes for each estimate, half of them the opposites of the other half; an even number.
        steps: steps, each of which costs `samples` + 1 forward passes.
        generator: source of all draws.
        chunk: most samples in one forward pass, which bounds the memory.

    Raises:
        ValueError: `steps` is below 1, `samples` is odd or below 2, or `chunk` is below 2.
    """
    check_steps(steps)
    if samples < 2 or samples % 2 or chunk < 2:
        msg = f"samples must be an even number of at least 2 and chunk at least 2, got {samples} and {chunk}"
        raise ValueError(msg)
    draws = Draws(len(problem.x), generator)
    noise, mean = torch.zeros_like(problem.x), torch.zeros_like(problem.x)
    size = STEP_FACTOR * problem.eps / steps
    probes = torch.zeros(len(noise), dtype=torch.long, device=noise.device)
    worst = Worst(problem)
    for number in range(steps):
        if worst.done:
            break
        active, here = worst.active, problem.take(worst.active)
        for sample in active.tolist():
            stream = draws.streams[sample]
            one = problem.take(torch.tensor([sample], device=noise.device))
            found = _estimate(one, noise[sample : sample + 1], loss, number / steps, samples // 2, stream, chunk // 2)
            mean[sample] = MOMENTUM * mean[sample] + (1 - MOMENTUM) * found
        probes[active] += samples
        direction = steepest(problem.norm, mean[active], here.free, active, draws)
        noise[active] = here.project(noise[active] + per_sample(size[active], direction) * direction)
        worst.look(noise)
        worst.log_quality()
    result = worst.result()
    return replace(result, forward=result.forward + probes)


def _estimate(
    problem: Problem, noise: Tensor, loss: Loss, progress: float, pairs: int, stream: torch.Generator, most: int
) -> Tensor:
    """Gradient (C, *spatial) of the loss for one sample under noise (1, C, *spatial), up to a factor.

    It is the mean over random directions of ±1 of the direction times the rise of the loss along it.
    """
    shape = problem.x.shape[1:]
    length = float(problem.eps) * PROBE / problem.norm.growth(problem.x[0].numel())
    total = torch.zeros_like(noise[0])
    for begin in range(0, pairs, most):
        count = min(most, pairs - begin)
        signs = torch.randint(2, (count, *shape), generator=stream).to(noise) * 2 - 1
        signs = problem.masked(signs)
        x = torch.cat([problem.x + noise + length * signs, problem.x + noise - length * signs])
        with torch.no_grad():
            values = loss(problem.model(x), problem.y.repeat_interleave(2 * count, 0), progress).to(noise)
        rise = (values[:count] - values[count:]).nan_to_num(0, 0, 0)
        total += (per_sample(rise, signs) * signs).sum(0)
    return total
