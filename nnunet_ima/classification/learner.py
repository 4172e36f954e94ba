"""A classifier that learns from a batch, as methods see it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn

from nnunet_ima.ima.margins import Sample
from nnunet_ima.methods.base import Learner, Outcome
from nnunet_ima.perturbation.few_sizes import few_sizes
from nnunet_ima.perturbation.half_precision import attacked_pass, precision
from nnunet_ima.tasks.classification import Classification


class MixedPrecision(nn.Module):
    """A network in half precision where nnU-Net's would be (on CUDA), with logits in single precision."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: Tensor) -> Tensor:
        """Return logits (B, K)."""
        with precision(x.device):
            logits: Tensor = self.network(x)
        return logits.float()


@dataclass
class ClassifierLearner(Learner):
    """See `Learner`.

    Attributes:
        model: the network that learns, and its precision.
        scaler: of gradients in half precision.
        check: hears each scalar before its gradients are computed.
    """

    model: MixedPrecision
    x: Tensor
    y: Tensor
    names: Sequence[Sample]
    task: Classification
    generator: torch.Generator
    scaler: torch.GradScaler | None = None
    check: Callable[[Tensor], None] = lambda loss: None
    free: Tensor | None = None

    @property
    def network(self) -> nn.Module:  # type: ignore[override]
        """The bare module."""
        return self.model.network

    def __call__(self, x: Tensor, rows: Tensor | None = None) -> Outcome:
        """See `Learner`."""
        logits = self.model(x)
        return Outcome(self.task.loss(logits, self.y if rows is None else self.y[rows]), logits)

    def backward(self, loss: Tensor) -> None:
        """See `Learner.backward`."""
        self.check(loss)
        scaled: Tensor = loss if self.scaler is None else self.scaler.scale(loss)
        scaled.backward()

    @contextmanager
    def attackable(self, network: nn.Module | None = None) -> Iterator[Callable[[Tensor], Tensor]]:
        """See `Learner.attackable`."""
        with evaluating(self.network if network is None else network) as lent:
            yield few_sizes(partial(attacked_pass, lent), len(self.x))


@contextmanager
def evaluating(model: nn.Module) -> Iterator[nn.Module]:
    """Lend a model in evaluation mode: an attack needs samples independent and answers reproducible."""
    training = model.training
    model.eval()
    try:
        yield model
    finally:
        model.train(training)
