"""Keeps the worst sample that an attack has seen, and a log of how it was found. All attacks look through this."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from nnunet_ima.attacks.problem import Attacked, Loss, Problem, Trace
from nnunet_ima.perturbation.ascent import input_gradient

# When an attack gives up, see `Worst`; results/d4_2d_cpu_race.md says how they were chosen.
TRIED = 0.1  # share of the steps inside the ball that are done first
ROWS = 3  # steps inside the ball, at least
AGAIN, SLACK = 2.0, 0.02


class Worst:
    """The lowest quality of each sample over everything looked at, the clean sample first.

    Ties keep what came first. A sample of quality 0 leaves, since it cannot get worse, which changes no result: an
    attack goes on with the samples `active`. With `Problem.beat` a sample leaves, too, that is further above it than
    `AGAIN` times what the latter half of the steps inside the ball has won, and `SLACK`: attacks win less and less.

    Attributes:
        problem: what is attacked.
        active: ascending indices (n,) of the samples that have not left.
        x: worst samples so far (B, C, *spatial).
        quality: their quality (B,).
    """

    def __init__(self, problem: Problem, *, stop_at_zero: bool = True) -> None:
        batch, device = len(problem.x), problem.x.device
        self.problem = problem
        self.active = torch.arange(batch, device=device)
        self.x = problem.x.clone()
        self.quality = torch.full((batch,), torch.inf, device=device)
        self._stop_at_zero = stop_at_zero
        self._inside: tuple[int, float] | None = None  # number and progress of the first step inside the ball
        self._forward, self._backward, self._not_finite, self._zero = torch.zeros(
            (4, batch), dtype=torch.long, device=device
        )
        self._loss: list[Tensor] = []
        self._qualities: list[Tensor] = []
        self._gradient: list[Tensor] = []
        self.look(torch.zeros_like(problem.x))

    @property
    def done(self) -> bool:
        """Whether every sample has left."""
        return len(self.active) == 0

    def look(self, noise: Tensor) -> tuple[Tensor, Tensor]:
        """Look at active samples under noise (B, C, *spatial); returns their logits and quality (n,)."""
        here = self.problem.take(self.active)
        with torch.no_grad():
            x = here.noisy(noise[self.active])
            logits = here.model(x)
            return logits, self._visit(x, logits, here.y)

    def climb(self, noise: Tensor, loss: Loss, progress: float, *, competes: bool = True) -> tuple[Tensor, Tensor]:
        """Look at active samples under noise, and from those that stay active, upwards.

        Args:
            noise: of all samples (B, C, *spatial).
            loss: what is climbed.
            progress: for `loss`.
            competes: the noise is within the problem's ball; otherwise nothing is kept and no sample leaves.

        Returns:
            Losses (n,) of the samples that are active afterwards, and the loss's gradient (n, C, *spatial) up to a
            factor, 0 where noise may not go or the gradient is not finite.
        """
        here = self.problem.take(self.active)
        with torch.enable_grad():
            x = here.noisy(noise[self.active]) if competes else here.x + noise[self.active]
            x = x.detach().requires_grad_()
            logits = here.model(x)
            before = self.active
            if competes:
                self._visit(x.detach(), logits.detach(), here.y)
                self._give_up(progress)
            else:
                self._forward[before] += 1
            if self.done:
                return x.new_empty(0), torch.empty_like(x[:0])
            still = torch.isin(before, self.active).nonzero()[:, 0]
            everyone = len(still) == len(before)
            values = loss(logits, here.y, progress) if everyone else loss(logits[still], here.y[still], progress)
            del logits  # the largest of all; the way back lets go of it as soon as the loss's derivative is there
            gradient = input_gradient(values, x)[still]
        self._log(values.detach().float(), gradient.float() / x[0].numel())
        return values.detach().float(), self.problem.take(self.active).masked(gradient.nan_to_num(0, 0, 0))

    def log_quality(self, quality: Tensor | None = None) -> None:
        """Add a line to the trace of an attack without gradients: a quality (B,), or the lowest so far."""
        self._qualities.append(self._row(self.quality[self.active]) if quality is None else quality)

    def result(self) -> Attacked:
        """Everything found so far."""
        empty = self.problem.x.new_empty((0, len(self.quality)), dtype=torch.float32)
        loss, quality, gradient = (
            torch.stack(rows) if rows else empty for rows in (self._loss, self._qualities, self._gradient)
        )
        trace = Trace(loss, quality, gradient, self._not_finite, self._zero)
        return Attacked(self.x, self.quality, trace, self._forward, self._backward)

    def _visit(self, x: Tensor, logits: Tensor, y: Tensor) -> Tensor:
        quality = self.problem.quality(logits, y).to(self.quality)
        self._forward[self.active] += 1
        worse = quality < self.quality[self.active]  # not a number is no evidence
        better = self.active[worse]
        self.x[better], self.quality[better] = x[worse], quality[worse]
        if self._stop_at_zero:
            self.active = self.active[self.quality[self.active] > 0]
        return quality

    def _give_up(self, progress: float) -> None:
        """Let samples leave that will hardly get below what is to be beaten."""
        if self.problem.beat is None:
            return
        done = len(self._qualities)
        self._inside = begin, since = self._inside or (done, progress)
        if done - begin < ROWS or progress - since < TRIED * (1 - since):
            return
        quality, middle = self.quality[self.active], self._qualities[begin + (done - begin) // 2][self.active]
        missing = quality - self.problem.beat[self.active]
        self.active = self.active[missing <= AGAIN * (middle - quality) + SLACK]

    def _log(self, loss: Tensor, gradient: Tensor) -> None:
        """Add a gradient step of the active samples to the trace."""
        flat = gradient.flatten(1)
        finite = flat.isfinite().all(1)
        self._backward[self.active] += 1
        self._not_finite[self.active] += ~finite
        self._zero[self.active] += (flat == 0).all(1)
        self._loss.append(self._row(loss))
        self._gradient.append(self._row(torch.linalg.vector_norm(flat, dim=1)))
        self.log_quality()

    def _row(self, values: Tensor) -> Tensor:
        row = torch.full_like(self.quality, torch.nan)
        row[self.active] = values.to(row)
        return row


def worst_of(results: Sequence[Attacked]) -> tuple[Tensor, Tensor, Tensor]:
    """Worst of several attacks on the same samples; ties keep the first, so a weaker one never replaces a stronger.

    Returns:
        The worst samples (B, C, *spatial), their quality (B,), and the number (B,) of the attack that found each.
    """
    quality, number = torch.stack([result.quality for result in results]).min(0)
    for index in reversed(range(len(results))):  # min does not promise the first of equals
        number = torch.where(results[index].quality == quality, index, number)
    samples = torch.arange(len(quality), device=quality.device)
    return torch.stack([result.x for result in results])[number, samples], quality, number
