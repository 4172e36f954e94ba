"""An exponential moving average of a network's weights, by optimiser steps."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

Tensors = tuple[Tensor, ...] | list[Tensor]


class WeightAverage:
    """The average of all weights so far, of which late ones count most.

    The decay rises with the number of steps n to its limit as (1 + n) / (10 + n), so that the average forgets the first
    weights soon, and short trainings have one too.

    Attributes:
        decay: largest share that a step leaves of the average.
    """

    def __init__(self, decay: float) -> None:
        self.decay = decay
        self._average: AveragedModel | None = None
        self._kept: Mapping[str, Any] | None = None

    def start(self, network: nn.Module) -> nn.Module:
        """Return the averaged network; the first time a copy of this one, or what was stored for one like it."""
        averaged: nn.Module = self._started(network).module
        return averaged

    def _started(self, network: nn.Module) -> AveragedModel:
        if self._average is None:
            self._average = AveragedModel(network, multi_avg_fn=self._move, use_buffers=True)
            self._average.requires_grad_(False)
            if self._kept is not None:
                self._average.load_state_dict(self._kept)
        return self._average

    def update(self, network: nn.Module) -> None:
        """Take in the weights after an optimiser step."""
        self._started(network).update_parameters(network)

    @classmethod
    def over(cls, share: float, steps: int) -> WeightAverage:
        """An average that looks back on a share of a training's steps."""
        return cls(max(0.0, 1 - 1 / (share * steps)))

    def state_dict(self) -> dict[str, Any]:
        """Return what a later `load_state_dict` needs; empty before the first step, unless there was one stored."""
        return dict(self._kept or {} if self._average is None else self._average.state_dict())

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take over what was stored; it is used as soon as there is a network to compare it with."""
        self._kept = dict(state) or None

    @staticmethod
    def weights(state: Mapping[str, Any]) -> dict[str, Any]:
        """Return the averaged weights in what `state_dict` has returned, under their names in the network."""
        return {name.removeprefix("module."): value for name, value in state.items() if name.startswith("module.")}

    def _move(self, average: Tensors, now: Tensors, count: Tensor | int) -> None:
        number = float(count)
        get_ema_multi_avg_fn(min(self.decay, (1 + number) / (10 + number)))(average, now, count)
