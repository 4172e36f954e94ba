"""MMA (Ding et al. 2020, arXiv 1812.02637): maximise margins by training on the nearest points that are wrong."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from statistics import fmean
from typing import Annotated, Any, ClassVar, NamedTuple

import torch
from torch import Tensor

from nnunet_ima.ima.boundary import Segment, find_boundary
from nnunet_ima.ima.margins import Sample
from nnunet_ima.methods.base import Evaluations, Gather, Learner, Method, Noise, Share, Step, StepFactor, Steps, passes
from nnunet_ima.methods.climb import Model, climb
from nnunet_ima.perturbation.norms import per_sample
from nnunet_ima.ranges import Range

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
    """A third of the clean loss, and two thirds of MMA's: of samples that are wrong, and of boundary points.

    Boundary points count for samples that are right with a margin below the largest one; others have what they need.

    Attributes:
        eps: the largest margin, d_max.
        steps: gradient steps of a search, whose ball is the margin that the sample had in the last epoch.
        alpha: step factor; each step has the size alpha · ball / steps.
        bisection_steps: most evaluations of the search for the boundary along the direction found.
        first: margin assumed until a sample is first seen, as a share of d_max; also the smallest ball.
        clean_share: of the clean loss.
    """

    learning_passes: ClassVar[int] = 2
    eps: Noise
    steps: Steps = 10
    alpha: StepFactor = 2.5
    bisection_steps: Evaluations = 10
    first: Annotated[float, Range(0, 1)] = 0.1
    clean_share: Share = 1 / 3
    found: dict[Sample, float] = field(init=False, repr=False)
    visits: list[tuple[Sample, float]] = field(init=False, repr=False, default_factory=list)

    def __post_init__(self) -> None:
        self.found = dict.fromkeys(self.run.cases, self.first * self.eps)

    def step(self, learner: Learner) -> Step:
        """See `Method.step`."""
        x, y, count = learner.x, learner.y, len(learner.x)
        clean = learner(x)
        score = learner.task.score(clean.logits.detach(), y)
        right = (score >= 0).nonzero()[:, 0]
        loss = self.clean_share * clean.losses.mean() + (1 - self.clean_share) * clean.losses[score < 0].sum() / count
        learner.backward(loss)
        total = loss.detach()
        del clean, loss
        with learner.attackable() as model:
            nearest = self.nearest(model, learner, right, score[right])
        below = nearest.distance < self.radius(x[right], self.eps)
        if below.any():
            losses = learner(nearest.x[below], right[below]).losses
            boundary = (1 - self.clean_share) * losses.sum() / count
            learner.backward(boundary)
            total = total + boundary.detach()
        log = {"attacked": len(right), "crossed": int(below.sum())}
        return Step(total, log | passes(count + int(below.sum()), nearest.forward, nearest.backward))

    def nearest(self, model: Model, learner: Learner, right: Tensor, score: Tensor) -> Nearest:
        """Adaptive-norm PGD: a direction from PGD, then the boundary along it; remembers the distances.

        Args:
            model: samples to logits.
            learner: holds the batch.
            right: indices (n,) of the samples on which the model is right.
            score: the task's score (n,) of these.
        """
        norm, task, x, y = self.run.norm, learner.task, learner.x[right], learner.y[right]
        if len(x) == 0:
            return Nearest(x, score, 0, 0)
        names = [learner.names[i] for i in right.tolist()]
        ball = x.new_tensor([self.run.budget.effective(self.margin(name)) for name in names])
        start = norm.random(x, learner.generator) * per_sample(ball, x)
        climbed = climb(
            model,
            x,
            lambda logits, rows: task.loss(logits, y[rows]),
            norm=norm,
            eps=ball,
            steps=self.steps,
            factor=self.alpha,
            start=start if learner.free is None else start * learner.free,
            free=learner.free,
        )
        forward = climbed.forward
        direction = climbed.x - x
        reach = norm.size(direction)
        direction = direction / per_sample(reach.clamp_min(1e-12), x)

        @torch.no_grad()
        def score_at(chosen: Tensor, distance: Tensor) -> Tensor:
            nonlocal forward
            forward += len(chosen)
            logits = model(x[chosen] + direction[chosen] * per_sample(distance, x))
            return task.score(logits, y[chosen]).float()

        end = score_at(torch.arange(len(x), device=x.device), reach)
        limit = self.radius(x, ROOM * self.eps)
        far = end >= 0  # not wrong yet: look further along the same line
        reach, end = torch.where(far, limit, reach), end.clone()
        if far.any():  # normalisation layers refuse an empty batch
            end[far] = score_at(far.nonzero()[:, 0], limit[far])
        crossed = (end < 0).nonzero()[:, 0]

        def search(chosen: Tensor, share: Tensor) -> Tensor:
            samples = crossed[chosen]
            return score_at(samples, share * reach[samples])

        share = find_boundary(
            search,
            Segment(score[crossed].float(), end[crossed]),
            tolerance=torch.full_like(reach[crossed], 0.01),
            evaluations=self.bisection_steps,
        )
        distance = reach.index_copy(0, crossed, share * reach[crossed])
        self.visits += zip(names, (distance / self.run.budget.scale).tolist(), strict=True)
        return Nearest(x + direction * per_sample(distance, x), distance, forward, climbed.backward)

    def margin(self, sample: Sample) -> float:
        """Margin that a sample had when it was last seen; at first that of its case."""
        if sample in self.found or isinstance(sample, str):
            return self.found[sample]
        return self.found[sample[0]]

    def end_epoch(self, gather: Gather = lambda value: [value]) -> None:
        """Take over the distances of the epoch, of all processes."""
        seen: dict[Sample, list[float]] = {}
        for visits in gather(self.visits):
            for name, distance in visits:
                seen.setdefault(name, []).append(distance)
        smallest = self.first * self.eps
        self.found |= {name: min(max(fmean(values), smallest), ROOM * self.eps) for name, values in seen.items()}
        self.visits = []

    def margins(self) -> dict[Sample, float]:
        """See `Method.margins`; a case stands for its slices until one of them has been seen."""
        seen = {name[0] for name in self.found if not isinstance(name, str)}
        return {name: margin for name, margin in self.found.items() if name not in seen}

    def state_dict(self) -> dict[str, Any]:
        """See `Method.state_dict`."""
        return {"found": dict(self.found)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """See `Method.load_state_dict`."""
        self.found = dict(state["found"])
