"""White noise, which knows nothing of the model: what an attack has to be read beside."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from nnunet_ima.attacks.pgd import check_steps
from nnunet_ima.attacks.problem import Attacked, Problem
from nnunet_ima.attacks.worst import Worst
from nnunet_ima.perturbation.norms import per_sample

KINDS = ("uniform", "gaussian")


def draw_white_noise(kind: str, problem: Problem, generator: torch.Generator) -> Tensor:
    """Independent zero-mean noise (B, C, *spatial) that uses up ε.

    It has the size ε exactly; in L2 that is an RMS of ε / √N over the N elements that are free. In L∞, uniform noise
    lies between -ε and ε, and Gaussian noise has the same RMS, ε / √3, and is cut at ±ε: scaled to a largest value of
    ε, it would fade as the number of elements grows.

    Args:
        kind: "uniform" or "gaussian".
        problem: says how much noise may go where.
        generator: source of the noise.

    Raises:
        ValueError: unknown kind.
    """
    if kind not in KINDS:
        msg = f"unknown noise {kind!r}; known are {', '.join(KINDS)}"
        raise ValueError(msg)
    like, device = problem.x, generator.device
    if kind == "uniform":
        noise = 2 * torch.rand(like.shape, generator=generator, device=device) - 1
    else:
        noise = torch.randn(like.shape, generator=generator, device=device) / math.sqrt(3)
    noise = problem.masked(noise.to(like))
    if problem.norm.growth(2) > 1:  # else every element is bounded by itself
        noise = noise / per_sample(problem.norm.size(noise).clamp_min(1e-12), noise)
    return problem.project(noise * per_sample(problem.eps, noise))


def white_noise(problem: Problem, kind: str, *, draws: int, generator: torch.Generator) -> Attacked:
    """Return, per sample, the worst of several draws of white noise, or the clean sample where none is worse.

    The trace's quality holds the quality of each draw (draws, B); no sample leaves, so that its mean is unbiased.

    Raises:
        ValueError: unknown kind, or `draws` is below 1.
    """
    check_steps(draws)
    worst = Worst(problem, stop_at_zero=False)
    for _ in range(draws):
        worst.log_quality(worst.look(draw_white_noise(kind, problem, generator))[1])
    return worst.result()
