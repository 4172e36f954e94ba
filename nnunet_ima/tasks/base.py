"""What is learned, as attacks and defences see it: one loss, one answer to "right or wrong", one quality to report."""

from __future__ import annotations

from typing import Protocol

from torch import Tensor


class Task(Protocol):
    """Everything is per sample, from logits (B, K, ...) and targets (B, ...), in float32 at least."""

    def loss(self, logits: Tensor, target: Tensor) -> Tensor:
        """Losses (B,) that training lowers and its attacks climb."""
        ...

    def score(self, logits: Tensor, target: Tensor) -> Tensor:
        """right(x, y) of the paper, as numbers (B,): at least 0 where the model is right, below 0 where it is wrong.

        They move with the distance to the boundary, so that a root finder can use them.
        """
        ...

    def quality(self, logits: Tensor, target: Tensor) -> Tensor:
        """Numbers (B,) from 0 (nothing is right) to 1 that an audit reports."""
        ...

    def divergence(self, logits: Tensor, others: Tensor, target: Tensor) -> Tensor:
        """KL(p ‖ q) (B,) of the predictions p of `others` and q of `logits`, where the target counts."""
        ...

    def distance(self, logits: Tensor, others: Tensor, target: Tensor) -> Tensor:
        """Squared distance (B,) of the probabilities of two predictions, where the target counts."""
        ...
