"""Find the point of a segment where a score changes sign, in few evaluations.

The ITP method (Oliveira & Takahashi 2020, "An Enhancement of the Bisection Method Average Performance Preserving
Minmax Optimality", ACM TOMS, doi 10.1145/3423597): as fast as interpolation on smooth scores, never slower than
bisection by more than one evaluation.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor


class Segment(NamedTuple):
    """Scores (N,) at the ends of each segment: at least 0 at its start (0), below 0 at its end (1)."""

    start_score: Tensor
    end_score: Tensor


def find_boundary(
    score_at: Callable[[Tensor, Tensor], Tensor], ends: Segment, tolerance: Tensor, evaluations: int
) -> Tensor:
    """Return the position in [0, 1] of the boundary on each of N segments.

    Args:
        score_at: called with indices (M,) of segments and positions (M,) on them; returns scores (M,).
        ends: scores at the ends.
        tolerance: bracket (N,) at which a segment is done.
        evaluations: most evaluations of any segment.

    Returns:
        Positions (N,), interpolated within the last bracket.
    """
    low, high = torch.zeros_like(ends.start_score), torch.ones_like(ends.start_score)
    low_score, high_score = (scores.clone() for scores in ends)
    half = (tolerance / 2).clamp(1e-6, 0.5)
    budget = torch.ceil(torch.log2(0.5 / half)).clamp_min(0) + 1  # bisection's evaluations, and one to spare
    for number in range(evaluations):
        open_ = (high - low > 2 * half).nonzero()[:, 0]
        if len(open_) == 0:
            break
        slack = half[open_] * 2 ** (budget[open_] - number) - (high[open_] - low[open_]) / 2
        at = _next_position(low[open_], high[open_], low_score[open_], high_score[open_], slack)
        score = score_at(open_, at)
        is_right = score >= 0
        for end, end_score, there in ((low, low_score, is_right), (high, high_score, ~is_right)):
            rows = there.nonzero()[:, 0]
            end[open_[rows]], end_score[open_[rows]] = at[rows], score[rows]
    return _interpolate(low, high, low_score, high_score)


def _next_position(low: Tensor, high: Tensor, low_score: Tensor, high_score: Tensor, slack: Tensor) -> Tensor:
    """One step of ITP: interpolate, truncate towards the middle, project onto what minmax optimality allows."""
    middle = (low + high) / 2
    guess = _interpolate(low, high, low_score, high_score)
    towards_middle = (middle - guess).sign()
    truncation = 0.2 * (high - low) ** 2
    guess = torch.where(truncation <= (middle - guess).abs(), guess + towards_middle * truncation, middle)
    slack = slack.clamp_min(0)
    return torch.where((guess - middle).abs() <= slack, guess, middle - towards_middle * slack)


def _interpolate(low: Tensor, high: Tensor, low_score: Tensor, high_score: Tensor) -> Tensor:
    share = low_score / (low_score - high_score)
    # a score that is infinite or not a number tells the side, not the distance
    return low + (high - low) * torch.where(share.isfinite() & high_score.isfinite(), share, 0.5)
