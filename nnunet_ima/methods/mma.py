"""MMA (Ding et al. 2020, arXiv 1812.02637): maximise margins by training on the nearest points that are wrong."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any, NamedTuple

import torch
from torch import Tensor, nn

from nnunet_ima.ima.boundary import Segment, find_boundary
from nnunet_ima.methods.ascent import climb
from nnunet_ima.methods.base import (
    Evaluations,
    Method,
    Noise,
    Share,
    Step,
    StepFactor,
    Steps,
    evaluating,
)
from nnunet_ima.perturbation.norms import per_sample
from nnunet_ima.ranges import Range
from nnunet_ima.tasks.criteria import ArgmaxCriterion

ROOM = 1.05  # how far beyond the largest margin the boundary is looked for


class Nearest(NamedTuple):
    """Points near the boundary.

    Attributes:
        x: samples (B, C, *spatial) on the boundary, or at the largest distance where it lies beyond.
        distance: of `x` from the clean samples (B,).
        forward: forward passes, per sample.
        backward: backward passes, per sample.
    """

    x: Tensor
    distance: Tensor
    forward: int
    backward: int


@dataclass(kw_only=True)
class MaxMargin(Method):
    """A third of the clean cross-entropy, and two thirds of MMA's: of images that are wrong, and of boundary points.

    Boundary points count for images that are right with a margin below the largest one; others have what they need.

    Attributes:
        eps: the largest margin, d_max.
        steps: gradient steps of a search, whose ball is the margin that the image had in the last epoch.
        alpha: step factor; each step has the size alpha · ball / steps.
        bisection_steps: most evaluations of the search for the boundary along the direction found.
        first: margin assumed in the first epoch, as a share of d_max; also the smallest ball.
        clean_share: of the clean cross-entropy.
    """

    eps: Noise
    steps: Steps = 10
    alpha: StepFactor = 2.5
    bisection_steps: Evaluations = 10
    first: Annotated[float, Range(0, 1)] = 0.1
    clean_share: Share = 1 / 3
    found: dict[str, float] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        self.found = dict.fromkeys(self.run.ids, self.first * self.eps)

    def step(self, model: nn.Module, x: Tensor, y: Tensor, ids: Sequence[str]) -> Step:
        """See `Method.step`."""
        logits = model(x)
        clean = self.cross_entropy(logits, y)
        score = ArgmaxCriterion().score(logits.detach(), y)
        right = (score >= 0).nonzero()[:, 0]
        names = [ids[i] for i in right.tolist()]
        with evaluating(model):
            nearest = self.nearest(model, x[right], y[right], score[right], names)
        below = nearest.distance < self.radius(x[right], self.eps)
        loss = clean[score < 0].sum()
        if below.any():
            loss = loss + self.cross_entropy(model(nearest.x[below]), y[right][below]).sum()
        loss = self.clean_share * clean.mean() + (1 - self.clean_share) * loss / len(x)
        seen = len(x) + int(below.sum())
        log = {"attacked": len(right), "crossed": int(below.sum())}
        return Step(loss, log | {"forward": seen + nearest.forward, "backward": seen + nearest.backward})

    def nearest(self, model: nn.Module, x: Tensor, y: Tensor, score: Tensor, ids: Sequence[str]) -> Nearest:
        """Adaptive-norm PGD: a direction from PGD, then the boundary along it; remembers the distances.

        Args:
            model: samples to logits.
            x: samples (B, C, *spatial) on which it is right.
            y: classes (B,).
            score: the criterion's score (B,) of `x`.
            ids: names (B,).
        """
        norm, criterion = self.run.norm, ArgmaxCriterion()
        if len(x) == 0:
            return Nearest(x, score, 0, 0)
        ball = x.new_tensor([self.run.budget.effective(self.found[name]) for name in ids])
        start = norm.random(x, self.generator) * per_sample(ball, x)
        climbed = climb(
            model, x, y, self.cross_entropy, norm=norm, eps=ball, steps=self.steps, factor=self.alpha, start=start
        )
        forward = climbed.forward + 2 * len(x)
        direction = climbed.x - x
        direction = direction / per_sample(norm.size(direction).clamp_min(1e-12), x)

        @torch.no_grad()
        def score_at(chosen: Tensor, distance: Tensor) -> Tensor:
            logits = model(x[chosen] + direction[chosen] * per_sample(distance, x))
            return criterion.score(logits, y[chosen]).float()

        everyone = torch.arange(len(x), device=x.device)
        reach = norm.size(climbed.x - x)
        end = score_at(everyone, reach)
        limit = self.radius(x, ROOM * self.eps)
        far = end >= 0  # not wrong yet: look further along the same line
        reach, end = torch.where(far, limit, reach), end.clone()
        if far.any():  # normalisation layers refuse an empty batch
            end[far] = score_at(everyone[far], limit[far])
        crossed = (end < 0).nonzero()[:, 0]
        distance = reach.clone()
        calls = 0

        def search(chosen: Tensor, share: Tensor) -> Tensor:
            nonlocal calls
            calls += len(chosen)
            samples = crossed[chosen]
            return score_at(samples, share * reach[samples])

        share = find_boundary(
            search,
            Segment(score[crossed].float(), end[crossed]),
            tolerance=torch.full_like(reach[crossed], 0.01),
            evaluations=self.bisection_steps,
        )
        distance[crossed] = share * reach[crossed]
        smallest = self.first * self.eps
        for name, value in zip(ids, (distance / self.run.budget.scale).tolist(), strict=True):
            self.found[name] = min(max(value, smallest), ROOM * self.eps)
        return Nearest(x + direction * per_sample(distance, x), distance, forward + calls, climbed.backward)

    def margins(self) -> dict[str, float]:
        """See `Method.margins`."""
        return dict(self.found)

    def state_dict(self) -> dict[str, Any]:
        """See `Method.state_dict`."""
        return {"found": dict(self.found)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """See `Method.load_state_dict`."""
        self.found = dict(state["found"])
