"""A case as attacks see it: a differentiable pipeline on an ordinary scale of the logits."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import cached_property, partial

import torch
from torch import Tensor

from nnunet_ima.attacks.problem import Problem
from nnunet_ima.attacks.temperature import Tempered, temperature
from nnunet_ima.inference.pipeline import Pipeline
from nnunet_ima.inference.volume import Volume
from nnunet_ima.perturbation.norms import Norm
from nnunet_ima.tasks.voxelwise import mean_dice_present

Watch = Callable[[str, float], None]
"""Told what is running and the lowest Dice so far, after every look of an attack at its samples."""


class Target:
    """A model on a case.

    Attributes:
        pipeline: the model's inference.
        volume: the case as the model's network gets it.
        norm: of the noise.
        x: the clean image (1, C, *spatial), on the model's device.
    """

    def __init__(self, pipeline: Pipeline, volume: Volume, norm: Norm) -> None:
        self.pipeline, self.volume, self.norm = pipeline, volume, norm
        self.x = volume.image[None].to(pipeline.model.device)

    def through(self, pipeline: Pipeline) -> Target:
        """The same case through another pipeline."""
        return Target(pipeline, self.volume, self.norm)

    def scaled(self, factor: float) -> Target:
        """The same case, attacked with logits this many times as large."""
        other = Target(self.pipeline, self.volume, self.norm)
        other.temperature = self.temperature / factor
        return other

    @cached_property
    def temperature(self) -> float:
        """What the logits are divided by for all attacks on this case; costs one pass."""
        return temperature(self.look(), self.pipeline.model.labels.regions)

    def look(self) -> Tensor:
        """Logits (1, K, *spatial) without noise, of a pass of their own: they may be too large to keep."""
        with torch.no_grad():
            return self.pipeline(self.x)

    def problem(self, radius: float, watch: Watch | None, title: str) -> Problem:
        """The attack's task: noise of at most this norm; `watch` hears of it under a title."""
        worst = math.inf
        dice = partial(mean_dice_present, labels=self.pipeline.model.labels)

        def quality(logits: Tensor, target: Tensor) -> Tensor:
            nonlocal worst
            found = dice(logits, target)
            worst = min(worst, float(found.min()))
            if watch is not None:
                watch(title, worst)
            return found

        device = self.pipeline.model.device
        return Problem(
            model=Tempered(self.pipeline, self.temperature),
            x=self.x,
            y=self.volume.target[None].to(device),
            eps=torch.tensor([radius], dtype=torch.float32, device=device),
            norm=self.norm,
            quality=quality,
        )
