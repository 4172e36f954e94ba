"""Volumetric adversarial frequency attack (Hanif et al. 2023, MICCAI, arXiv 2307.07269): too much compression.

The volume is cut into blocks, whose cosine transforms are rounded to multiples of a table, as JPEG does in 2D. The
tables are what is learnt: they drop what the model needs. Noise is bounded by their largest entry, in 256ths of the
range of grey values, and by no norm: what the attack finds cannot be set beside results at an ε.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache

import torch
import torch.nn.functional as F
from torch import Tensor

from nnunet_ima.attacks.pgd import check_steps
from nnunet_ima.attacks.problem import Attacked, Loss, Problem
from nnunet_ima.attacks.worst import Worst

EDGE = 8  # of a block, as in JPEG
GREYS = 255.0  # steps that the range of grey values is cut into: the unit of tables
WINDOW = 7  # edge of the windows of SSIM
Q_MIN = 1.0


@dataclass(frozen=True)
class Blocks:
    """A volume as cosine transforms of its blocks, and back.

    Attributes:
        shape: (B, C, *spatial) of the volume.
    """

    shape: tuple[int, ...]

    @property
    def edges(self) -> tuple[int, ...]:
        """Of a block, along each axis of space; thin axes have thin blocks."""
        return tuple(min(EDGE, size) for size in self.shape[2:])

    def transform(self, volume: Tensor) -> Tensor:
        """Coefficients (B, C, n_1, e_1, n_2, e_2, ...) of a volume; its edge is repeated to fill the last blocks."""
        cut = volume
        for axis, (size, edge) in enumerate(zip(self.shape[2:], self.edges, strict=True), 2):
            index = torch.arange(math.ceil(size / edge) * edge, device=volume.device).clamp_max(size - 1)
            cut = cut.index_select(axis, index)
        counts = [size // edge for size, edge in zip(cut.shape[2:], self.edges, strict=True)]
        pairs = [number for pair in zip(counts, self.edges, strict=True) for number in pair]
        return self._along_blocks(cut.reshape(*self.shape[:2], *pairs), inverse=False)

    def restore(self, coefficients: Tensor) -> Tensor:
        """The volume (B, C, *spatial) of such coefficients."""
        blocks = self._along_blocks(coefficients, inverse=True)
        sizes = [blocks.shape[axis] * blocks.shape[axis + 1] for axis in range(2, blocks.ndim, 2)]
        whole = blocks.reshape(*self.shape[:2], *sizes)
        for axis, size in enumerate(self.shape[2:], 2):
            whole = whole.narrow(axis, 0, size)
        return whole

    def _along_blocks(self, blocks: Tensor, *, inverse: bool) -> Tensor:
        for number, edge in enumerate(self.edges):
            basis = _cosines(edge).to(blocks)
            axis = 3 + 2 * number
            blocks = (blocks.movedim(axis, -1) @ (basis if inverse else basis.T)).movedim(-1, axis)
        return blocks


@cache
def _cosines(size: int) -> Tensor:
    """Orthonormal cosine transform of the second kind (size, size), in double precision: a row for each frequency."""
    places, frequencies = torch.arange(size).double(), torch.arange(size).double()[:, None]
    basis = torch.cos(math.pi * (places + 0.5) * frequencies / size) * math.sqrt(2 / size)
    basis[0] /= math.sqrt(2)
    return basis


def quantised(coefficients: Tensor, tables: Tensor) -> Tensor:
    """Coefficients rounded to multiples of tables; in the gradient, rounding counts as the identity."""
    multiples = coefficients / tables
    return tables * (multiples + (multiples.round() - multiples).detach())


def ssim(first: Tensor, second: Tensor, span: Tensor) -> Tensor:
    """Mean structural similarity (B,) of volumes (B, C, *spatial), in windows of `WINDOW` voxels (Wang et al. 2004).

    Args:
        first: volumes.
        second: others.
        span: range of the grey values (B, C).
    """
    edges = [min(WINDOW, size) for size in first.shape[2:]]
    pool: Callable[..., Tensor] = {1: F.avg_pool1d, 2: F.avg_pool2d, 3: F.avg_pool3d}[len(edges)]

    def mean(values: Tensor) -> Tensor:
        return pool(values, edges, 1)

    voxels = math.prod(edges)
    unbiased = voxels / max(1, voxels - 1)
    a, b = mean(first), mean(second)
    variances = [unbiased * (mean(x * x) - m * m) for x, m in ((first, a), (second, b))]
    covariance = unbiased * (mean(first * second) - a * b)
    scale = span.reshape(*span.shape, *[1] * len(edges))
    low, high = (0.01 * scale) ** 2, (0.03 * scale) ** 2
    same = (2 * a * b + low) * (2 * covariance + high)
    return (same / ((a * a + b * b + low) * (variances[0] + variances[1] + high))).flatten(1).mean(1)


def grey_span(x: Tensor) -> Tensor:
    """Range of the grey values of each sample and channel (B, C)."""
    flat = x.flatten(2)
    return (flat.amax(2) - flat.amin(2)).clamp_min(1e-6)


def vafa(problem: Problem, loss: Loss, *, steps: int, q_max: float) -> Attacked:
    """Return, per sample, the compressed volume of lowest quality.

    The tables begin at their bound, one for each block, and climb the loss plus the structural similarity to the clean
    volume in steps of 1 grey level. Nothing is random.

    Args:
        problem: what to attack; its ε and norm bound nothing here.
        loss: what to climb.
        steps: gradient steps.
        q_max: largest entry of a table, in grey levels (256ths of the range) of an orthonormal transform.

    Raises:
        ValueError: `steps` or `q_max` are below 1.
    """
    check_steps(steps)
    if not q_max >= Q_MIN:
        msg = f"q_max must be at least {Q_MIN:g} grey levels, got {q_max:g}"
        raise ValueError(msg)
    x, span = problem.x, grey_span(problem.x)
    level = span.reshape(*span.shape, *[1] * (x.ndim - 2)) / GREYS
    blocks = Blocks(tuple(x.shape))
    coefficients = blocks.transform(x / level)
    tables = torch.full_like(coefficients, q_max)
    worst = Worst(replace(problem, eps=torch.full_like(problem.eps, torch.finfo(torch.float32).max)))

    def compressed(tables: Tensor) -> Tensor:
        return blocks.restore(quantised(coefficients, tables)) * level

    for number in range(steps):
        if worst.done:
            break
        with torch.no_grad():
            noise = compressed(tables) - x
        _, gradient = worst.climb(noise, loss, number / steps)
        if worst.done:
            break
        tables = _climb(tables, worst, gradient / x[0].numel(), compressed, x, span, q_max)
    if not worst.done:
        with torch.no_grad():
            worst.look(compressed(tables) - x)
    return worst.result()


def _climb(
    tables: Tensor,
    worst: Worst,
    gradient: Tensor,
    compressed: Callable[[Tensor], Tensor],
    x: Tensor,
    span: Tensor,
    q_max: float,
) -> Tensor:
    """Tables after a step, from the gradient (n, C, *spatial) of the active samples' losses."""
    with torch.enable_grad():
        asked = tables.detach().requires_grad_()
        volume = compressed(asked)
        climbed = (volume[worst.active] * gradient).sum() + ssim(volume, x, span)[worst.active].sum()
        (slope,) = torch.autograd.grad(climbed, asked)
    return (tables + slope.sign()).clamp(Q_MIN, q_max)
