"""Logits on one scale, so that no attack depends on how large a model makes them.

A last layer that is multiplied by 30 changes no prediction, but flattens every loss: probabilities of 0 and 1 have no
gradient, and an attack finds less. Attacks therefore climb the losses of logits divided by a temperature, under which
their spread on clean samples is that of an ordinary network.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from torch import Tensor

from nnunet_ima.attacks.problem import Model, confined
from nnunet_ima.tasks.slabs import summed

ORDINARY = 8.0  # spread of the logits of a network that nnU-Net has trained


def spread(logits: Tensor, regions: bool = False) -> Tensor:
    """Mean lead (B,) of the winner over the runner-up; in a sigmoid's logits, mean distance from 0.

    Args:
        logits: (B, K, *spatial) or (B, K).
        regions: each channel is a binary problem of its own.
    """

    def leads(logits: Tensor, _: Tensor) -> tuple[Tensor]:
        logits = logits.float()
        if regions:
            return (logits.abs().flatten(1).sum(1),)
        first, second = logits.topk(2, dim=1).values.unbind(1)
        return ((first - second).reshape(len(logits), -1).sum(1),)

    (total,) = summed(leads, logits, logits)
    return total / (logits[0].numel() if regions else logits[0, 0].numel())


def temperature(logits: Tensor, regions: bool = False) -> float:
    """What to divide a model's logits by, given those of its clean samples (see `spread`); 1 if they are constant."""
    found = float(spread(logits, regions).mean()) / ORDINARY
    return found if 0 < found < float("inf") else 1.0


@dataclass(frozen=True)
class Tempered:
    """A model with its logits divided by a temperature: the same predictions, another scale."""

    model: Model
    temperature: float

    def __call__(self, x: Tensor) -> Tensor:
        """Logits of samples."""
        return self.model(x) / self.temperature

    def confined(self, x: Tensor, free: Tensor) -> Tempered:
        """See `problem.confined`."""
        return replace(self, model=confined(self.model, x, free))
