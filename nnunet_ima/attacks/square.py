"""Square attack: random search with local patches, without gradients (Andriushchenko et al. 2020, arXiv 1912.00049).

It sees nothing of a model but its outputs. Where it does better than a gradient attack, the gradients deceive. Written
for any number of spatial axes: squares are cubes in a volume.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import prod

import torch
from torch import Tensor

from nnunet_ima.attacks.pgd import check_steps
from nnunet_ima.attacks.problem import Attacked, Problem
from nnunet_ima.attacks.worst import Worst
from nnunet_ima.perturbation.draws import Draws

Score = Callable[[Tensor, Tensor], Tensor]
"""Logits and targets to numbers (B,) that fall as predictions get worse: a margin, a quality, minus a loss."""

SHARE = 0.8  # of the voxels, that the first squares cover
# queries, of 10 000, after which that share is halved once more
HALVINGS = (10, 50, 200, 500, 1000, 2000, 4000, 6000, 8000)


def square(problem: Problem, score: Score, *, queries: int, generator: torch.Generator) -> Attacked:
    """Return, per sample, the noise of lowest quality among all that random search has tried.

    A square of noise is kept where it lowers the score. The trace holds the lowest quality after each query.

    Args:
        problem: what to attack; needs at least one spatial axis.
        score: what to lower.
        queries: forward passes, besides the clean one.
        generator: source of all draws.

    Raises:
        ValueError: `queries` is below 1, there is no spatial axis, or the norm is neither L2 nor L∞.
    """
    check_steps(queries)
    if problem.x.ndim < 3 or problem.norm.name not in _MOVES:
        msg = f"the Square attack needs images and L2 or Linf, got x {tuple(problem.x.shape)} and {problem.norm.name}"
        raise ValueError(msg)
    first, change = _MOVES[problem.norm.name]
    draws = Draws(len(problem.x), generator)
    worst = Worst(problem)
    noise = torch.zeros_like(problem.x)
    best = torch.full_like(problem.eps, torch.inf)
    for query in range(queries):
        if worst.done:
            break
        active = worst.active
        tried = noise.clone()
        for sample in active.tolist():
            eps, stream = float(problem.eps[sample]), draws.streams[sample]
            side = _share(query, queries)
            tried[sample] = (
                first(tried[sample], eps, stream) if query == 0 else change(noise[sample], eps, side, stream)
            )
        tried[active] = problem.take(active).project(tried[active])
        here = problem.take(active)
        logits, _ = worst.look(tried)
        found = score(logits, here.y).to(best)
        del logits  # not to be held while the next ones are computed
        lower = active[found < best[active]]
        noise[lower], best[active] = tried[lower], best[active].minimum(found)
        worst.log_quality()
    return worst.result()


def _share(query: int, queries: int) -> float:
    """Share of the voxels that a square covers."""
    return SHARE / float(1 << sum(query * 10_000 > start * queries for start in HALVINGS))


def _stripes(noise: Tensor, eps: float, stream: torch.Generator) -> Tensor:
    """L∞: ±ε, constant along the first axis."""
    return noise + eps * _signs((noise.shape[0], 1, *noise.shape[2:]), stream).to(noise)


def _linf_change(noise: Tensor, eps: float, share: float, stream: torch.Generator) -> Tensor:
    """L∞: ±ε in one square, one sign for each channel."""
    sides = _sides(noise.shape[1:], share, 1)
    noise = noise.clone()
    noise[_place(noise.shape[1:], sides, stream)] = eps * _signs((len(noise), *[1] * len(sides)), stream).to(noise)
    return noise


def _tiles(noise: Tensor, eps: float, stream: torch.Generator) -> Tensor:
    """L2: tiles of pyramids, five along the shortest axis."""
    noise = noise.clone()
    side = max(1, min(noise.shape[1:]) // 5)
    axes = [range((length % side) // 2, length - side + 1, side) for length in noise.shape[1:]]
    for corner in torch.cartesian_prod(*map(torch.tensor, axes)).reshape(-1, len(axes)).tolist():
        at = (slice(None), *(slice(begin, begin + side) for begin in corner))
        pyramids = _pyramids([side] * len(axes), stream).to(noise)
        noise[at] += pyramids * _signs((len(noise), *[1] * len(axes)), stream).to(noise)
    return _of_size(noise, eps)


def _l2_change(noise: Tensor, eps: float, share: float, stream: torch.Generator) -> Tensor:
    """L2: empty one square and spend its norm, and what was not spent, on pyramids in another."""
    sides = _sides(noise.shape[1:], share, 3)
    taken, given = (_place(noise.shape[1:], sides, stream) for _ in range(2))
    axes = tuple(range(1, noise.ndim))
    both = torch.zeros_like(noise)
    both[taken] = both[given] = 1
    unspent = max(eps**2 - float(noise.square().sum()), 0.0) / len(noise)
    budget = ((noise * both).square().sum(axes, keepdim=True) + unspent).sqrt()
    old = noise[given] / torch.linalg.vector_norm(noise[given], dim=axes, keepdim=True).clamp_min(1e-12)
    new = _pyramids(sides, stream).to(noise) * _signs((len(noise), *[1] * len(sides)), stream).to(noise) + old
    noise = noise.clone()
    noise[taken] = 0
    noise[given] = new / torch.linalg.vector_norm(new, dim=axes, keepdim=True).clamp_min(1e-12) * budget
    return _of_size(noise, eps)


_Move = tuple[
    Callable[[Tensor, float, torch.Generator], Tensor], Callable[[Tensor, float, float, torch.Generator], Tensor]
]
_MOVES: dict[str, _Move] = {"Linf": (_stripes, _linf_change), "L2": (_tiles, _l2_change)}
SQUARE_NORMS = tuple(_MOVES)
"""Norms that it knows."""


def _pyramids(sides: Sequence[int], stream: torch.Generator) -> Tensor:
    """Two pyramids of opposite sign side by side along a random axis, of norm 1 (*sides)."""
    axis = int(torch.randint(len(sides), (), generator=stream))
    half = sides[axis] // 2
    parts = [_pyramid([n if i == axis else side for i, side in enumerate(sides)]) for n in (half, sides[axis] - half)]
    both = torch.cat([parts[0], -parts[1]], axis)
    size: Tensor = torch.linalg.vector_norm(both)
    return both / size


def _pyramid(sides: Sequence[int]) -> Tensor:
    """Heights Σ 1 / k² over the squares around the centre that a place lies in, of norm 1; empty if a side is 0."""
    away = torch.zeros(tuple(sides), dtype=torch.long)
    for axis, side in enumerate(sides):
        distance = (torch.arange(side) - side // 2).abs()
        away = away.maximum(distance.reshape([-1 if i == axis else 1 for i in range(len(sides))]))
    terms = 1 / torch.arange(1, max(sides) // 2 + 2).float().square()
    heights = terms.flip(0).cumsum(0).flip(0)[away]
    size: Tensor = torch.linalg.vector_norm(heights)
    return heights / size.clamp_min(1e-12)


def _sides(shape: Sequence[int], share: float, least: int) -> list[int]:
    """Sides of a square that covers a share of the voxels, cut to the image."""
    side = max(round((share * prod(shape)) ** (1 / len(shape))), least)
    return [min(side, length) for length in shape]


def _place(shape: Sequence[int], sides: Sequence[int], stream: torch.Generator) -> tuple[slice, ...]:
    """A random place for a square, with all channels."""
    begins = [
        int(torch.randint(length - side + 1, (), generator=stream)) for length, side in zip(shape, sides, strict=True)
    ]
    return (slice(None), *(slice(begin, begin + side) for begin, side in zip(begins, sides, strict=True)))


def _signs(shape: Sequence[int], stream: torch.Generator) -> Tensor:
    return torch.randint(2, tuple(shape), generator=stream).float() * 2 - 1


def _of_size(noise: Tensor, eps: float) -> Tensor:
    return noise * (eps / max(float(torch.linalg.vector_norm(noise)), 1e-12))
