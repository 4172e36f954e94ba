"""Classification as a task: cross-entropy, and the class of the largest logit."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor


@dataclass(frozen=True)
class Classification:
    """Logits (B, K) and classes (B,).

    Attributes:
        class_weights: weights (K,) of the classes in the loss; None: 1 each.
    """

    class_weights: Tensor | None = None

    def loss(self, logits: Tensor, target: Tensor) -> Tensor:
        """Cross-entropy (B,), weighted by the true class."""
        loss = F.cross_entropy(logits.float(), target, reduction="none")
        return loss if self.class_weights is None else loss * self.class_weights.to(loss)[target]

    def score(self, logits: Tensor, target: Tensor) -> Tensor:
        """Lead (B,) of the true class over the next one."""
        truth = logits.gather(1, target[:, None])[:, 0]
        others = logits.scatter(1, target[:, None], -torch.inf).amax(1)
        return truth - others

    def quality(self, logits: Tensor, target: Tensor) -> Tensor:
        """1 where the class is right, 0 where it is wrong."""
        return (logits.argmax(1) == target).float()

    def divergence(self, logits: Tensor, others: Tensor, target: Tensor) -> Tensor:
        """KL(p ‖ q) (B,) of the predictions p of `others` and q of `logits`; targets have no part in it."""
        log_q, log_p = F.log_softmax(logits, 1), F.log_softmax(others, 1)
        return F.kl_div(log_q, log_p, reduction="none", log_target=True).sum(1)

    def distance(self, logits: Tensor, others: Tensor, target: Tensor) -> Tensor:
        """Squared distance (B,) of the probabilities."""
        return (logits.softmax(1) - others.softmax(1)).square().sum(1)
