"""Friendly adversarial training (Zhang et al. 2020, arXiv 2002.11242): noise that only just misleads."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from nnunet_ima.classification.methods.adv import Adversarial


@dataclass(kw_only=True)
class Friendly(Adversarial):
    """Mean cross-entropy under PGD that stops τ steps after it has misled the model.

    Attributes:
        eps: the noise level.
        steps: most gradient steps, from a random start in the ball.
        alpha: step factor; each step has the size alpha · ε / steps. The paper's 0.007 of 0.031 in 10 steps is 2.26.
        tau: τ from which share of the epochs on; the paper raises it from 0 to 2 while the model learns.
    """

    steps: int = 10
    alpha: float = 2.26
    tau: tuple[tuple[float, int], ...] = ((0.0, 0), (0.5, 1), (0.9, 2))

    def begin_epoch(self, epoch: int, generator: torch.Generator) -> None:
        """See `Method.begin_epoch`."""
        super().begin_epoch(epoch, generator)
        self.patience = [tau for share, tau in self.tau if epoch >= share * self.run.epochs][-1]
