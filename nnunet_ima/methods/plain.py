"""No defence: the loss of clean samples."""

from __future__ import annotations

from dataclasses import dataclass

from nnunet_ima.methods.base import Learner, Method, Step, passes


@dataclass(kw_only=True)
class Plain(Method):
    """Mean loss of the clean samples."""

    def step(self, learner: Learner) -> Step:
        """See `Method.step`."""
        loss = learner(learner.x).losses.mean()
        learner.backward(loss)
        return Step(loss.detach(), passes(len(learner.x)))
