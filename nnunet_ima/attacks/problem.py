"""What an attack is asked, and what it answers. Everything is per sample."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

from nnunet_ima.perturbation.norms import Norm, per_sample

Model = Callable[[Tensor], Tensor]
Quality = Callable[[Tensor, Tensor], Tensor]
Loss = Callable[[Tensor, Tensor, float], Tensor]
"""Logits, targets and the share of the steps that is done, in [0, 1), to losses (B,), which attacks climb."""


@runtime_checkable
class Confinable(Protocol):
    """A model that has less to do where samples change in few places."""

    def confined(self, x: Tensor, free: Tensor) -> Model:
        """The model for samples that differ from `x` (B, C, *spatial) only where `free` is not 0."""


def confined(model: Model, x: Tensor, free: Tensor) -> Model:
    """A model for samples that differ from `x` only where `free` is not 0; itself where it knows no shorter way."""
    return model.confined(x, free) if isinstance(model, Confinable) else model


@dataclass(frozen=True)
class Problem:
    """Find noise of at most size ε that makes a model's predictions as bad as possible.

    Nothing is clamped to [0, 1]: images are z-scored or normalised otherwise, and have no such range.

    Attributes:
        model: samples (B, C, *spatial) to logits (B, K, *spatial) or (B, K); must treat samples independently
            (evaluation mode for batch norms and dropout) and give the same answer twice.
        x: samples (B, C, *spatial), or (B, C) where there is no space.
        y: targets (B, ...), as `quality` and losses read them.
        eps: radius (B,) of the ball around each sample.
        norm: the norm of the balls.
        quality: logits and targets to numbers (B,), at least 0, that say how good the predictions are (hard foreground
            Dice, say), each from its own sample alone. At 0 a prediction cannot get worse.
        free: 1 where noise may go and 0 elsewhere, broadcastable to `x`; None: everywhere.
        beat: quality (B,) that another attack has reached: one that will hardly get below it gives up, see
            `worst.Worst`; None: it does all its steps.

    Raises:
        ValueError: ε is negative or not finite, or shapes do not fit.
    """

    model: Model
    x: Tensor
    y: Tensor
    eps: Tensor
    norm: Norm
    quality: Quality
    free: Tensor | None = None
    beat: Tensor | None = None

    def __post_init__(self) -> None:
        batch = len(self.x)
        if not self.x.is_floating_point() or self.x.ndim < 2:
            msg = f"x must be floating-point numbers (B, C, *spatial), got {self.x.dtype} {tuple(self.x.shape)}"
            raise ValueError(msg)
        if self.eps.shape != (batch,) or len(self.y) != batch:
            msg = f"{batch} samples need as many targets and ε, got {len(self.y)} and ε {tuple(self.eps.shape)}"
            raise ValueError(msg)
        if not self.eps.is_floating_point() or not bool((self.eps.isfinite() & (self.eps >= 0)).all()):
            msg = f"eps must be finite floating-point numbers of at least 0, got {self.eps}"
            raise ValueError(msg)
        if self.free is not None:
            try:
                self.free.expand_as(self.x)
            except RuntimeError as error:
                msg = f"free {tuple(self.free.shape)} must be broadcastable to x {tuple(self.x.shape)}"
                raise ValueError(msg) from error

    def take(self, samples: Tensor) -> Problem:
        """The same problem for some of the samples, given by ascending indices (n,)."""
        if len(samples) == len(self.x):
            return self
        free = self.free
        if free is not None and free.ndim == self.x.ndim and len(free) == len(self.x):
            free = free[samples]
        beat = None if self.beat is None else self.beat[samples]
        return replace(self, x=self.x[samples], y=self.y[samples], eps=self.eps[samples], free=free, beat=beat)

    def confined(self, free: Tensor) -> Problem:
        """The same problem with noise in some of the places where it may go; `free` as the attribute."""
        free = free if self.free is None else free * self.free
        return replace(self, model=confined(self.model, self.x, free), free=free)

    def masked(self, noise: Tensor) -> Tensor:
        """Noise (B, C, *spatial) where it may go, 0 elsewhere."""
        return noise if self.free is None else noise * self.free

    def project(self, noise: Tensor) -> Tensor:
        """Nearest noise (B, C, *spatial) that is allowed."""
        return self.norm.project(self.masked(noise), self.eps)

    def noisy(self, noise: Tensor) -> Tensor:
        """Samples under allowed noise, whose distance from `x` is at most ε as they are: after rounding the sum."""
        noisy = self.x + noise
        shrink = 1e-6  # of single precision; less would take several rounds
        while True:
            over = (self._distance(noisy) > self.eps).nonzero()[:, 0]
            if len(over) == 0:
                return noisy
            if shrink > 0.5:  # ε is below the rounding of x itself
                return noisy.index_copy(0, over, self.x[over])
            noisy[over] = self.x[over] + noise[over] * (1 - shrink)
            shrink *= 2

    def _distance(self, noisy: Tensor) -> Tensor:
        wide = torch.float32 if noisy.device.type == "mps" else torch.float64  # which MPS has not
        return self.norm.size(noisy.to(wide) - self.x.to(wide))

    def start(self, generator: torch.Generator | None, noise: Tensor | None, eps: Tensor | None = None) -> Tensor:
        """Noise (B, C, *spatial) to begin from.

        Args:
            generator: source of random noise in the ball, unless `noise` is given; None: begin without noise.
            noise: noise to begin from, of any size; it is projected.
            eps: radius (B,) of the ball where it is not the problem's own.

        Raises:
            ValueError: `noise` has another shape than `x` or is not finite.
        """
        eps = self.eps if eps is None else eps
        if noise is None:
            if generator is None:
                return torch.zeros_like(self.x)
            noise = self.norm.random(self.x, generator) * per_sample(eps, self.x)
        elif noise.shape != self.x.shape or not bool(noise.isfinite().all()):
            msg = f"noise to begin from must be finite and of shape {tuple(self.x.shape)}, got {tuple(noise.shape)}"
            raise ValueError(msg)
        return self.norm.project(self.masked(noise.to(self.x)), eps)


@dataclass(frozen=True)
class Trace:
    """The course of an attack, by which its evidence is judged.

    Attributes:
        loss: the loss climbed, at each gradient step (steps, B); NaN where a sample had left.
        quality: lowest quality so far at each gradient step (steps, B), or at each look of an attack without
            gradients; NaN where a sample had left.
        gradient: L2 norm of the loss's gradient with respect to the sample (steps, B); NaN where a sample had left.
        not_finite: gradients (B,) that held NaN or infinity.
        zero: gradients (B,) that were exactly zero.
    """

    loss: Tensor
    quality: Tensor
    gradient: Tensor
    not_finite: Tensor
    zero: Tensor


@dataclass(frozen=True)
class Attacked:
    """What an attack found.

    Attributes:
        x: the worst samples (B, C, *spatial); the clean ones where nothing worse was found.
        quality: their quality (B,).
        trace: the attack's course.
        forward: network passes (B,) spent on each sample.
        backward: backward passes (B,) spent on each sample.
    """

    x: Tensor
    quality: Tensor
    trace: Trace
    forward: Tensor
    backward: Tensor
