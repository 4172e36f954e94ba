"""IMA (Ma & Liang 2023, doi 10.1016/j.cmpb.2023.107687): the same functions that train segmentation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any

from torch import Tensor, nn

from nnunet_ima.ima.bpgd import Search, bpgd
from nnunet_ima.ima.margins import MarginTable
from nnunet_ima.ima.objective import objective
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
from nnunet_ima.ranges import Range
from nnunet_ima.tasks.criteria import ArgmaxCriterion


@dataclass(kw_only=True)
class IncreasingMargin(Method):
    """Clean images and, of those that are right, samples on the decision boundary inside a ball that grows.

    Images are not augmented: a margin that was crossed is corrected at once, not halfway (method of the paper).

    Attributes:
        eps: the largest margin, ε_max.
        delta: margin expansion per epoch; None: ε_max / epochs.
        beta: weight of the boundary samples.
        steps: gradient steps N_PGD from a random start.
        alpha: step factor; each step has the size alpha · margin / steps.
        bisection_steps: most evaluations of the search for the boundary, N_bin.
        bisection_tolerance: length, as a share of the margin, at which that search ends.
    """

    eps: Noise
    delta: Annotated[float | None, Range(0, 1e6)] = None
    beta: Share = 0.5
    steps: Steps = 20
    alpha: StepFactor = 4.0
    bisection_steps: Evaluations = 10
    bisection_tolerance: Annotated[float, Range(0, 1)] = 0.01
    table: MarginTable = field(init=False, repr=False)

    def __post_init__(self) -> None:
        if self.delta is not None and self.delta > self.eps:
            msg = f"delta ({self.delta:g}) must not exceed eps ({self.eps:g})"
            raise ValueError(msg)
        delta = self.eps / self.run.epochs if self.delta is None else self.delta
        self.table = MarginTable(self.run.ids, delta, self.eps, damped=False)

    def step(self, model: nn.Module, x: Tensor, y: Tensor, ids: Sequence[str]) -> Step:
        """See `Method.step`."""
        criterion, scale = ArgmaxCriterion(), self.run.budget.scale
        logits = model(x)
        clean = self.cross_entropy(logits, y)
        score = criterion.score(logits.detach(), y)
        right = (score >= 0).nonzero()[:, 0]
        if len(right) == 0:
            return Step(clean.mean(), {"forward": len(x), "backward": len(x)})
        names = [ids[i] for i in right.tolist()]
        with evaluating(model):
            found = bpgd(
                model,
                x[right],
                y[right],
                self.table.radius(names).to(x) * scale,
                norm=self.run.norm,
                criterion=criterion,
                loss=self.cross_entropy,
                score=score[right],
                expansion=self.table.delta * scale,
                generator=self.generator,
                search=Search(self.steps, self.alpha, self.bisection_tolerance, self.bisection_steps),
            )
        boundary = self.cross_entropy(model(found.x), y[right])
        self.table.observe(names, found.crossed, found.size / scale)
        seen = len(x) + len(right)
        log = {"attacked": len(right), "crossed": int(found.crossed.sum())}
        passes = {"forward": seen + int(found.forward.sum()), "backward": seen + int(found.backward.sum())}
        return Step(objective(clean, boundary, self.beta), log | passes)

    def end_epoch(self) -> None:
        """Move the margins (Algorithm 2)."""
        self.table.end_epoch()

    def margins(self) -> dict[str, float]:
        """See `Method.margins`."""
        return dict(self.table.cases)

    def state_dict(self) -> dict[str, Any]:
        """See `Method.state_dict`."""
        return {"margins": self.table.state_dict()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """See `Method.load_state_dict`."""
        self.table.load_state_dict(state["margins"])
