"""Algorithm 3 (BPGD): projected gradient descent that is pulled back onto the decision boundary by bisection."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from nnunet_ima.ima.boundary import Segment, find_boundary
from nnunet_ima.perturbation.ascent import ascend, input_gradient, steepest
from nnunet_ima.perturbation.norms import Norm, per_sample
from nnunet_ima.tasks.base import Task

Model = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Search:
    """How BPGD spends its network passes.

    Attributes:
        steps: gradient steps N_PGD, the free one included (see `bpgd`).
        alpha: step factor α; each step has the size α·E / steps.
        tolerance: length, as a share of E, at which the search for the boundary ends.
        bisections: most evaluations of that search, N_bin.
    """

    steps: int = 20
    alpha: float = 4.0
    tolerance: float = 0.01
    bisections: int = 10


@dataclass(frozen=True)
class BoundarySamples:
    """What BPGD found, per sample.

    Attributes:
        x: samples (B, C, *spatial), on the boundary where it was crossed.
        crossed: booleans (B,).
        size: norm (B,) of the noise.
        forward: forward passes (B,) spent.
        backward: backward passes (B,) spent.
    """

    x: Tensor
    crossed: Tensor
    size: Tensor
    forward: Tensor
    backward: Tensor


def bpgd(
    model: Model,
    x: Tensor,
    y: Tensor,
    eps: Tensor,
    *,
    norm: Norm,
    task: Task,
    score: Tensor,
    expansion: float,
    generator: torch.Generator,
    search: Search | None = None,
    gradient: Tensor | None = None,
    free: Tensor | None = None,
) -> BoundarySamples:
    """Look for the decision boundary inside a ball around each sample, and return samples on it.

    No sample's result depends on the others in its batch. A sample that has crossed leaves the batch: no further
    gradient is spent on it, and only such samples enter the search along the last step. Gradients with respect to
    weights are never computed.

    Args:
        model: samples to logits; must treat samples independently (evaluation mode for batch norms and dropout).
        x: samples (B, C, *spatial) on which the model is right.
        y: targets (B, ...).
        eps: radius E of each ball (B,).
        norm: the norm of the balls.
        task: its loss is climbed, and its score says on which side of the boundary a sample is.
        score: the task's score (B,) of `x`, known from the clean pass.
        expansion: margin expansion Δ in the unit of `eps`; the random start is at most max(E - Δ, Δ) away, and E.
        generator: source of the random start.
        search: how many passes to spend on what; None: the paper's numbers.
        gradient: gradient (B, C, *spatial) of the loss at `x`, where it is known from the clean pass already: it
            gives the first step, in place of the random start, and costs nothing.
        free: 1 where noise may go and 0 elsewhere, broadcastable to one sample (1, C, *spatial); None: everywhere.
    """
    search = search or Search()
    step = search.alpha / search.steps * eps
    delta, first = None, 0
    if gradient is not None:
        direction = steepest(norm, gradient, free, torch.arange(len(x)), None)
        known = norm.size(direction) > 0
        delta, first = norm.project(direction * per_sample(step, x), eps), 1
    if delta is None or not bool(known.all()):  # a vanished gradient leaves the random start, which takes time to draw
        drawn = norm.random(x, generator) * per_sample((eps - expansion).clamp_min(expansion).minimum(eps), x)
        drawn = drawn if free is None else drawn * free
        delta = drawn if delta is None else torch.where(per_sample(known, x), delta, drawn)
    walk = _Walk(delta, score)

    def climb(number: int, noise: Tensor) -> tuple[Tensor, Tensor]:
        active = walk.active
        with torch.enable_grad():
            at = (x[active] + noise[active]).requires_grad_()
            logits = model(at)
            still_right = walk.visit(active, task.score(logits.detach(), y[active]))
            if len(still_right) == 0:
                return walk.active, noise[:0]
            found = input_gradient(task.loss(logits, y[active]), at)
        walk.backward[active] += 1
        return walk.active, found[still_right]

    ascend(climb, walk.delta, norm=norm, eps=eps, size=step, steps=range(first, search.steps), free=free)
    if len(active := walk.active):
        with torch.no_grad():
            walk.visit(active, task.score(model(x[active] + walk.delta[active]), y[active]))
    _pull_back(model, x, y, eps, walk, norm, task, search)
    return BoundarySamples(x + walk.delta, walk.crossed, norm.size(walk.delta), walk.forward, walk.backward)


class _Walk:
    """The path of each sample: where it is, its last point that was right, and what it has cost."""

    def __init__(self, delta: Tensor, score: Tensor) -> None:
        batch = len(delta)
        self.delta = delta
        self.right = torch.zeros_like(delta)  # the clean sample
        self.right_score = score.detach().float().clone()
        self.wrong_score = torch.full_like(self.right_score, -torch.inf)
        self.crossed = torch.zeros(batch, dtype=torch.bool, device=delta.device)
        self.forward = torch.zeros(batch, dtype=torch.long, device=delta.device)
        self.backward = torch.zeros_like(self.forward)
        self.active = torch.arange(batch, device=delta.device)

    def visit(self, active: Tensor, score: Tensor) -> Tensor:
        """Take in the scores of the active samples (n,) at their present points; those that are wrong stop here.

        Returns the rows (m,) of those that go on.
        """
        self.forward[active] += 1
        is_right = score >= 0  # not a number is wrong
        right, wrong = is_right.nonzero()[:, 0], (~is_right).nonzero()[:, 0]  # all for which a GPU must be waited for
        self.crossed[active[wrong]] = True
        self.wrong_score[active[wrong]] = score[wrong].float()
        self.active = active[right]
        self.right[self.active] = self.delta[self.active]
        self.right_score[self.active] = score[right].float()
        return right


def _pull_back(
    model: Model, x: Tensor, y: Tensor, eps: Tensor, walk: _Walk, norm: Norm, task: Task, search: Search
) -> None:
    """Move the samples that crossed from their first wrong point back onto the boundary."""
    crossed = walk.crossed.nonzero()[:, 0]
    if len(crossed) == 0:
        return
    right, step = walk.right[crossed], walk.delta[crossed] - walk.right[crossed]

    def score_at(chosen: Tensor, share: Tensor) -> Tensor:
        samples = crossed[chosen]
        walk.forward[samples] += 1
        with torch.no_grad():
            logits = model(x[samples] + right[chosen] + step[chosen] * per_sample(share, x))
            return task.score(logits, y[samples]).float()

    length = norm.size(step).clamp_min(1e-12)
    share = find_boundary(
        score_at,
        Segment(walk.right_score[crossed], walk.wrong_score[crossed]),
        tolerance=search.tolerance * eps[crossed] / length,
        evaluations=search.bisections,
    )
    walk.delta[crossed] = right + step * per_sample(share, x)
