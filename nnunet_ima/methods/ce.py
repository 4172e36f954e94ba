"""No defence: cross-entropy on the clean images."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor, nn

from nnunet_ima.methods.base import Method, Step


@dataclass(kw_only=True)
class CrossEntropy(Method):
    """Mean cross-entropy of the clean images."""

    def step(self, model: nn.Module, x: Tensor, y: Tensor, ids: Sequence[str]) -> Step:
        """See `Method.step`."""
        return Step(self.cross_entropy(model(x), y).mean(), {"forward": len(x), "backward": len(x)})
