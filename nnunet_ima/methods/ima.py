"""IMA (Ma & Liang 2023, doi 10.1016/j.cmpb.2023.107687), Algorithm 1."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, ClassVar

from torch import Tensor

from nnunet_ima.ima.bpgd import BoundarySamples, Search, bpgd
from nnunet_ima.ima.margins import MarginTable, Sample
from nnunet_ima.ima.objective import weights
from nnunet_ima.methods.base import Evaluations, Gather, Learner, Method, Noise, Share, Step, StepFactor, Steps, passes
from nnunet_ima.ranges import Choice, Range


@dataclass(kw_only=True)
class IncreasingMargin(Method):
    """Clean samples and, of those that are right, samples on the decision boundary inside a ball that grows.

    The clean pass serves the loss and tells which samples the model is right about. It is back-propagated before the
    attack begins, so that no two graphs are held at once.

    Attributes:
        eps: the largest margin, ε_max.
        delta: margin expansion per epoch, also the first margin; None: ε_max / (reach · epochs).
        reach: share of the epochs after which margins that were never crossed are ε_max. The paper's classifiers take
            all; where the learning rate falls to nothing in the end, margins settle only if they are there before.
        beta: weight of the boundary samples in the loss.
        steps: gradient steps N_PGD of one attack.
        alpha: step factor α; each step has the size α · margin / steps.
        start: "random" (Algorithm 3), or "gradient": the first step follows the gradient of the clean pass, which is
            computed anyway.
        bisection_steps: most evaluations of the search for the boundary, N_bin.
        bisection_tolerance: length, as a share of the margin, at which that search ends.
        margin_key: what has a margin of its own: "sample" (in 2D segmentation a slice of a case) or "case".
    """

    learning_passes: ClassVar[int] = 2
    eps: Noise
    delta: Annotated[float | None, Range(0, 1e6)] = None
    reach: Annotated[float, Range(0, 1)] = 0.5
    beta: Share = 0.5
    steps: Steps = 20
    alpha: StepFactor = 4.0
    start: Annotated[str, Choice(("random", "gradient"))] = "random"
    bisection_steps: Evaluations = 10
    bisection_tolerance: Annotated[float, Range(0, 1)] = 0.01
    margin_key: Annotated[str, Choice(("sample", "case"))] = "sample"
    table: MarginTable = field(init=False, repr=False)

    def __post_init__(self) -> None:
        if self.delta is not None and self.delta > self.eps:
            msg = f"delta ({self.delta:g}) must not exceed eps ({self.eps:g})"
            raise ValueError(msg)
        grown = min(self.eps, self.eps / (self.reach * self.run.epochs))
        delta = grown if self.delta is None else self.delta
        # a random crop says little about its case: a margin that was crossed is corrected halfway only
        self.table = MarginTable(self.run.cases, delta, self.eps, damped=self.run.augmented)

    def step(self, learner: Learner) -> Step:
        """See `Method.step`."""
        x, y, task = learner.x, learner.y, learner.task
        free_gradient = (
            self.start == "gradient" and self.beta < 1
        )  # at 1 the clean loss, and its gradient, has no weight
        x.requires_grad_(free_gradient)
        clean = learner(x)
        score = task.score(clean.logits.detach(), y)
        right = (score >= 0).nonzero()[:, 0]
        clean_weight, boundary_weight = weights(len(right) > 0, self.beta)
        loss = clean_weight * clean.losses.mean()
        del clean
        learner.backward(loss)
        gradient = x.grad[right] if x.grad is not None else None
        x.requires_grad_(False).grad = None
        total, count = loss.detach(), len(x)
        if len(right) == 0:
            return Step(total, {"attacked": 0, "crossed": 0, **passes(count)})

        names = [self.name_of(learner.names[i]) for i in right.tolist()]
        found = self.attack(learner, right, names, score[right], gradient)
        boundary = boundary_weight * learner(found.x, right).losses.mean()
        learner.backward(boundary)
        self.table.observe(names, found.crossed, found.size / self.run.budget.scale)
        spent = passes(count + len(right), int(found.forward.sum()), int(found.backward.sum()))
        log = {"attacked": len(right), "crossed": int(found.crossed.sum()), **spent}
        return Step(total + boundary.detach(), log)

    def attack(
        self, learner: Learner, right: Tensor, names: list[Sample], score: Tensor, gradient: Tensor | None
    ) -> BoundarySamples:
        """BPGD on the samples of these indices (n,), on which the model is right; see `bpgd`."""
        x, scale = learner.x[right], self.run.budget.scale
        with learner.attackable() as model:
            return bpgd(
                model,
                x,
                learner.y[right],
                self.table.radius(names).to(x) * scale,
                norm=self.run.norm,
                task=learner.task,
                score=score,
                expansion=self.table.delta * scale,
                generator=learner.generator,
                search=Search(self.steps, self.alpha, self.bisection_tolerance, self.bisection_steps),
                gradient=gradient,
                free=learner.free,
            )

    def name_of(self, sample: Sample) -> Sample:
        """Name under which a sample has its margin."""
        return sample if isinstance(sample, str) or self.margin_key == "sample" else sample[0]

    def end_epoch(self, gather: Gather = lambda value: [value]) -> None:
        """Move the margins (Algorithm 2), with the visits of all processes."""
        self.table.end_epoch([visit for visits in gather(self.table.visits) for visit in visits])

    def margins(self) -> dict[Sample, float]:
        """See `Method.margins`."""
        return self.table.margins

    def state_dict(self) -> dict[str, Any]:
        """See `Method.state_dict`."""
        return {"margins": self.table.state_dict()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """See `Method.load_state_dict`."""
        self.table.load_state_dict(state["margins"])
