"""Smallest noise that breaks a prediction, by bisection over ε with warm starts."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from nnunet_ima.attacks.problem import Attacked, Problem
from nnunet_ima.perturbation.norms import per_sample


@dataclass(frozen=True)
class Minimal:
    """The smallest noise found that takes quality below the threshold.

    Attributes:
        eps: its norm (B,), at which breaking was seen; infinite where even the largest ε allowed did not break.
        noise: (B, C, *spatial), 0 where nothing broke.
        quality: of the samples under this noise (B,), seen in a last pass.
        forward: forward passes (B,) spent.
        backward: backward passes (B,) spent.
    """

    eps: Tensor
    noise: Tensor
    quality: Tensor
    forward: Tensor
    backward: Tensor


def minimal_eps(
    problem_at: Callable[[Tensor], Problem],
    attack: Callable[[Problem, Tensor | None], Attacked],
    *,
    low: Tensor,
    high: Tensor,
    known: Tensor | None = None,
    threshold: float,
    tolerance: float = 0.02,
    rounds: int = 10,
) -> Minimal:
    """Return, per sample, the smallest ε found at which quality falls below a threshold.

    At each new ε the noise that broke before is scaled down and tried first, which costs one forward pass; only where
    it no longer breaks, an attack is run, from there. An attack ends as soon as it breaks.

    Args:
        problem_at: radii ε (B,) to the problem.
        attack: problem and noise to begin from to a result; see `attacks.presets`.
        low: largest ε (B,) known to do no harm, 0 where none is.
        high: largest ε (B,) that is tried.
        known: noise (B, C, *spatial) that breaks already, of at most size `high`, where there is any.
        threshold: quality below which a prediction counts as broken.
        tolerance: share of ε at which the search for a sample ends.
        rounds: most bisections.

    Raises:
        ValueError: `threshold` or `tolerance` is not above 0, `rounds` is negative, or `low` exceeds `high`.
    """
    for name, value in (("threshold", threshold), ("tolerance", tolerance)):
        if not value > 0:
            msg = f"{name} must be above 0, got {value}"
            raise ValueError(msg)
    if rounds < 0 or not bool((low <= high).all()):
        msg = f"rounds must be at least 0 and low at most high, got {rounds}, {low.tolist()}, {high.tolist()}"
        raise ValueError(msg)
    search = _Bisection(problem_at, attack, low, high, threshold)
    search.open(known)
    for _ in range(rounds):
        wide = (search.upper - search.lower > tolerance * search.upper) & search.upper.isfinite()
        if not bool(wide.any()):
            break
        search.halve(wide.nonzero()[:, 0])
    return search.result()


class _Bisection:
    """Bracket of each sample: ε that did no harm, ε that broke, and the noise that did."""

    def __init__(
        self,
        problem_at: Callable[[Tensor], Problem],
        attack: Callable[[Problem, Tensor | None], Attacked],
        low: Tensor,
        high: Tensor,
        threshold: float,
    ) -> None:
        self._at, self._attack, self._threshold = problem_at, attack, threshold
        self._top = problem_at(high)
        batch, device = len(high), self._top.x.device
        self.lower, self.upper = low.to(device).clone(), torch.full((batch,), torch.inf, device=device)
        self.noise = torch.zeros_like(self._top.x)
        self.forward, self.backward = torch.zeros((2, batch), dtype=torch.long, device=device)

    def open(self, known: Tensor | None) -> None:
        """Look for noise that breaks: none at all, what is known, an attack at the largest ε."""
        everyone = torch.arange(len(self.upper), device=self.upper.device)
        self._try(self._top, everyone, self.noise)
        left = self.upper.isinf().nonzero()[:, 0]
        if known is not None and len(left):
            self._try(self._top.take(left), left, known[left])
            left = self.upper.isinf().nonzero()[:, 0]
        if len(left):
            self._run(self._top.take(left), left, None if known is None else known[left])

    def halve(self, samples: Tensor) -> None:
        """Try the middle of these samples' brackets."""
        middle = (self.lower + self.upper) / 2
        problem = self._at(torch.where(middle.isfinite(), middle, self._top.eps)).take(samples)
        scaled = self.noise[samples] * per_sample(middle[samples] / self.upper[samples], self.noise)
        held = ~self._try(problem, samples, scaled)
        rows = held.nonzero()[:, 0]
        if len(rows):
            left = samples[rows]
            broke = self._run(problem.take(rows), left, scaled[rows])
            self.lower[left[~broke]] = middle[left[~broke]]

    def result(self) -> Minimal:
        """The smallest noise so far, seen once more."""
        problem = self._top
        with torch.no_grad():
            quality = problem.quality(problem.model(problem.x + self.noise), problem.y)
        return Minimal(self.upper, self.noise, quality, self.forward + 1, self.backward)

    def _try(self, problem: Problem, samples: Tensor, noise: Tensor) -> Tensor:
        """One forward pass; returns which samples (n,) break."""
        with torch.no_grad():
            x = problem.noisy(problem.project(noise))
            broke = problem.quality(problem.model(x), problem.y) < self._threshold
        self.forward[samples] += 1
        self._keep(problem, samples, x, broke)
        return broke

    def _run(self, problem: Problem, samples: Tensor, start: Tensor | None) -> Tensor:
        """Attack; returns which samples (n,) break."""

        def quality(logits: Tensor, y: Tensor) -> Tensor:
            found = problem.quality(logits, y)
            return torch.where(found < self._threshold, 0, found)  # a sample of quality 0 leaves the attack

        attacked = self._attack(replace(problem, quality=quality), start)
        self.forward[samples] += attacked.forward
        self.backward[samples] += attacked.backward
        broke = attacked.quality < self._threshold
        self._keep(problem, samples, attacked.x, broke)
        return broke

    def _keep(self, problem: Problem, samples: Tensor, x: Tensor, broke: Tensor) -> None:
        noise = (x - problem.x)[broke]
        self.noise[samples[broke]] = noise
        self.upper[samples[broke]] = problem.norm.size(noise).to(self.upper)
