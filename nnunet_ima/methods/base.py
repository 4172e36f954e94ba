"""What a training method is: given a model, a batch and the names of its images, the loss and what to log."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Annotated, Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nnunet_ima.perturbation.budget import Budget
from nnunet_ima.perturbation.norms import Norm
from nnunet_ima.ranges import Range

# Types of settings that several methods share, with their ranges. No L2 norm of an image in [0, 1] comes near 10⁶.
Noise = Annotated[float, Range(0, 1e6)]
Steps = Annotated[int, Range(1, 100_000, closed=True, whole=True)]
Evaluations = Annotated[int, Range(0, 1000, closed=True, whole=True)]
StepFactor = Annotated[float, Range(0, 1e6)]
Share = Annotated[float, Range(0, 1, closed=True)]


class Step(NamedTuple):
    """A batch's outcome.

    Attributes:
        loss: scalar, to be minimised.
        log: sums over the batch, such as {"attacked": 30, "forward": 240}; an epoch's log divides them by its images.
    """

    loss: Tensor
    log: Mapping[str, float]


@dataclass(frozen=True)
class Run:
    """What a training tells its method.

    Attributes:
        ids: names of the training images.
        epochs: length of the training.
        norm: of the noise.
        budget: turns ε, which settings quote on the reference image, into the norm on the images at hand.
        class_weights: weights (K,) of the classes in every cross-entropy; None: 1 each.
    """

    ids: tuple[str, ...]
    epochs: int
    norm: Norm
    budget: Budget
    class_weights: Tensor | None = None


@dataclass(kw_only=True)
class Method(ABC):
    """A way to train; the subclass's fields are its settings, with their ranges and, as defaults, its paper's values.

    Networks must treat samples independently in evaluation mode, in which all attacks run.

    Attributes:
        run: what the training says.
        generator: source of all random draws; the training gives each epoch one of its own, which makes it resumable.
    """

    run: Run
    generator: torch.Generator = field(init=False, repr=False, default_factory=torch.Generator)

    def begin_epoch(self, epoch: int, generator: torch.Generator) -> None:
        """Take up epoch 0, 1, ...; everything random in it comes from the generator."""
        self.generator = generator

    @abstractmethod
    def step(self, model: nn.Module, x: Tensor, y: Tensor, ids: Sequence[str]) -> Step:
        """Return the loss of a batch.

        Args:
            model: images to logits (B, K), in training mode; returned to it.
            x: images (B, C, *spatial).
            y: classes (B,).
            ids: names (B,) of the images.
        """

    def end_epoch(self) -> None:  # noqa: B027, most methods have nothing to do
        """Finish an epoch."""

    def margins(self) -> dict[str, float] | None:
        """Return the margin of each training image, in the unit of the settings; None if the method has none."""
        return None

    def state_dict(self) -> dict[str, Any]:
        """Return what must be kept between epochs, besides the network."""
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:  # noqa: B027
        """Take over a kept state."""

    def cross_entropy(self, logits: Tensor, y: Tensor) -> Tensor:
        """Cross-entropy (B,) of each sample, weighted by its class."""
        weights = self.run.class_weights
        loss = F.cross_entropy(logits.float(), y, reduction="none")
        return loss if weights is None else loss * weights.to(loss)[y]

    def radius(self, x: Tensor, eps: float) -> Tensor:
        """Norms (B,) on these images that a noise level of the settings stands for."""
        return x.new_full((len(x),), self.run.budget.effective(eps))


@contextmanager
def evaluating(model: nn.Module) -> Iterator[nn.Module]:
    """Lend a model in evaluation mode: an attack needs samples independent and answers reproducible."""
    training = model.training
    model.eval()
    try:
        yield model
    finally:
        model.train(training)
