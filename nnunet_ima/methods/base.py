"""What a way to train is: given a network that learns from a batch, it lets it learn, and says what that took."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, NamedTuple

import torch
from torch import Tensor, nn

from nnunet_ima.ima.margins import Sample
from nnunet_ima.perturbation.budget import Budget
from nnunet_ima.perturbation.norms import NORMS, Norm, per_sample
from nnunet_ima.ranges import Range
from nnunet_ima.tasks.base import Task

# Types of settings that several methods share, with their ranges. No norm of an image comes near 10⁶.
Noise = Annotated[float, Range(0, 1e6)]
Steps = Annotated[int, Range(1, 100_000, closed=True, whole=True)]
Evaluations = Annotated[int, Range(0, 1000, closed=True, whole=True)]
StepFactor = Annotated[float, Range(0, 1e6)]
Share = Annotated[float, Range(0, 1, closed=True)]

Gather = Callable[[Any], list[Any]]
"""A value to the values of all processes that train together."""


class Outcome(NamedTuple):
    """What the network makes of samples.

    Attributes:
        losses: of each sample (B,), with all that the training adds to the task's loss (deep supervision).
        logits: (B, K, ...).
    """

    losses: Tensor
    logits: Tensor


class Step(NamedTuple):
    """A batch's outcome.

    Attributes:
        loss: what was minimised, a scalar without gradient.
        log: sums over the batch, such as {"attacked": 30, "forward": 240}; an epoch's log divides them by its samples.
    """

    loss: Tensor
    log: Mapping[str, float]


class Learner(ABC):
    """A network that learns from one batch, whatever trains it: nnU-Net or our classification.

    Attributes:
        x: clean samples (B, C, *spatial).
        y: targets (B, ...).
        names: of the samples (B,).
        task: what is learned.
        generator: source of all random draws of this batch.
        free: 1 where noise may go, broadcastable to one sample; None: everywhere.
        network: the bare module.
    """

    x: Tensor
    y: Tensor
    names: Sequence[Sample]
    task: Task
    generator: torch.Generator
    free: Tensor | None
    network: nn.Module

    @abstractmethod
    def __call__(self, x: Tensor, rows: Tensor | None = None) -> Outcome:
        """Learn from samples: a pass in training mode, with gradients of the weights.

        Args:
            x: samples (n, C, *spatial), clean or not.
            rows: their indices (n,) in the batch, which tell their targets; None: the whole batch.
        """

    @abstractmethod
    def backward(self, loss: Tensor) -> None:
        """Add the gradients of a scalar to those of the weights; its graph is gone afterwards."""

    @abstractmethod
    def attackable(self, network: nn.Module | None = None) -> AbstractContextManager[Callable[[Tensor], Tensor]]:
        """Lend a network in evaluation mode: samples independent, logits in single precision, one output.

        Args:
            network: a copy of the bare module; None: that which learns.
        """


@dataclass(frozen=True)
class Run:
    """What a training tells its method.

    Attributes:
        cases: names of the training cases, or images.
        epochs: length of the training.
        norm: of the noise, a name in `NORMS`.
        budget: turns ε, which settings quote at a reference size, into the norm on the samples at hand.
        augmented: samples are random crops of the cases, which no two epochs see alike.
    """

    cases: tuple[str, ...]
    epochs: int
    budget: Budget
    augmented: bool = False

    @property
    def norm(self) -> Norm:
        """The norm of the noise."""
        return NORMS[self.budget.norm]


@dataclass(kw_only=True)
class Method(ABC):
    """A way to train; the subclass's fields are its settings, with their ranges and, as defaults, its paper's values.

    Attributes:
        run: what the training says.
    """

    learning_passes: ClassVar[int] = 1  # in training mode, with gradients of the weights, at most in one step
    run: Run

    def begin_epoch(self, epoch: int) -> None:  # noqa: B027, most methods have nothing to do
        """Take up epoch 0, 1, ..."""

    @abstractmethod
    def step(self, learner: Learner) -> Step:
        """Let the network learn from a batch: all its gradients are there afterwards."""

    def learnt(self, network: nn.Module) -> None:  # noqa: B027
        """Hear that the optimiser has moved the weights of the bare network."""

    def end_epoch(self, gather: Gather = lambda value: [value]) -> None:  # noqa: B027
        """Finish an epoch; all processes that train together call it, and end in the same state."""

    def margins(self) -> dict[Sample, float] | None:
        """Return the margin of each sample, in the unit of the settings; None if the method has none."""
        return None

    def state_dict(self) -> dict[str, Any]:
        """Return what must be kept between epochs, besides the network: numbers, strings and tensors."""
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:  # noqa: B027
        """Take over a kept state."""

    def radius(self, x: Tensor, eps: float) -> Tensor:
        """Norms (B,) on these samples that a noise level of the settings stands for."""
        return x.new_full((len(x),), self.run.budget.effective(eps))

    def random_start(self, learner: Learner, eps: Tensor) -> Tensor:
        """Random noise (B, C, *spatial) of at most a norm (B,), where noise may go."""
        noise = self.run.norm.random(learner.x, learner.generator) * per_sample(eps, learner.x)
        return noise if learner.free is None else noise * learner.free


def passes(samples: int, forward: int = 0, backward: int = 0) -> dict[str, float]:
    """A log of network passes: those of learning from so many samples, and those of an attack."""
    return {"forward": samples + forward, "backward": samples + backward}
