"""Attacks on a classifier in batches, and what an audit keeps of each image."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor, nn

from nnunet_ima.attacks.problem import Attacked, Model, Problem
from nnunet_ima.attacks.temperature import Tempered, temperature
from nnunet_ima.evidence.records import Trace
from nnunet_ima.evidence.traces import rounded
from nnunet_ima.perturbation.norms import Norm
from nnunet_ima.tasks.classification import Classification

Attack = Callable[[Problem], Attacked]


@dataclass(frozen=True)
class Outcome:
    """What an attack did to some images, one entry each.

    Attributes:
        predicted: class of the worst noisy image; of the clean one where no noise changed it to a wrong one.
        correct: 1 where that is right, 0 where it is wrong.
        noise: norm of the noise that made it wrong; 0 where none did.
        forward: forward passes.
        backward: backward passes.
        trace: the course of the attack; the loss is the mean over the images that stood to the end, since the others
            leave on the way.
    """

    predicted: list[int]
    correct: list[int]
    noise: list[float]
    forward: list[int]
    backward: list[int]
    trace: Trace


@dataclass(frozen=True)
class Target:
    """A classifier with images, as attacks need it.

    Noisy images are not clipped to [0, 1]: that allows more noise than clipping would, so that no accuracy is too good.

    Attributes:
        model: images (N, C, H, W) to logits (N, K), in evaluation mode; see `frozen`.
        x: images (N, C, H, W).
        y: classes (N,).
        norm: of the noise.
        batch_size: most images in one pass.
        device: where the model is; batches are moved there.
    """

    model: nn.Module
    x: Tensor
    y: Tensor
    norm: Norm
    batch_size: int
    device: torch.device

    @cached_property
    def temperature(self) -> float:
        """What the logits are divided by for all attacks; costs one pass over all images."""
        return temperature(self.predict(torch.arange(len(self.x))))

    def problem(self, images: Tensor, eps: Tensor) -> Problem:
        """Noise of at most these norms (n,) on images of these numbers (n,)."""
        return self._problem(Tempered(self.model, self.temperature), images, eps)

    def predict(self, images: Tensor, noise: Callable[[Problem], Tensor] | None = None, radius: float = 0.0) -> Tensor:
        """Logits (n, K) of images of these numbers (n,), under noise of at most a norm if any.

        Raises:
            ValueError: logits are not finite.
        """
        rows = []
        for batch in images.split(self.batch_size):
            problem = self._problem(self.model, batch, torch.full((len(batch),), radius))
            with torch.no_grad():
                x = problem.x if noise is None else problem.noisy(noise(problem))
                rows.append(self.model(x).float().cpu())
        logits = torch.cat(rows)
        if not bool(logits.isfinite().all()):
            msg = "the classifier's outputs are not finite; it cannot be audited"
            raise ValueError(msg)
        return logits

    def attack(
        self,
        images: Sequence[int],
        radius: float,
        attack: Attack,
        tell: Callable[[float], None] | None = None,
        keeps_form: bool = True,
    ) -> Outcome:
        """Attack images of these numbers with noise of at most a norm.

        Args:
            images: numbers of the images.
            radius: the largest norm of noise.
            attack: problem to result.
            tell: hears the share that is done.
            keeps_form: see `attacks.losses.AttackLoss`.
        """
        predicted: list[int] = []
        noise: list[float] = []
        found: list[Attacked] = []
        numbers = torch.tensor(list(images), dtype=torch.long)
        for batch in numbers.split(self.batch_size) if len(numbers) else ():
            attacked = attack(problem := self.problem(batch, torch.full((len(batch),), radius)))
            with torch.no_grad():
                others = self.model(attacked.x).scatter(1, problem.y[:, None], -torch.inf).argmax(1)
            # as seen in the attack, whatever another batch rounds to
            predicted += torch.where(attacked.quality > 0, problem.y, others).tolist()
            noise += self.norm.size(attacked.x.cpu().double() - self.x[batch].double()).tolist()
            found.append(attacked)
            if tell is not None:
                tell(len(predicted) / len(numbers))
        backward = [passes for it in found for passes in it.backward.tolist()]
        return Outcome(
            predicted=predicted,
            correct=[int(quality > 0) for it in found for quality in it.quality.tolist()],
            noise=noise,
            forward=[passes for it in found for passes in it.forward.tolist()],
            backward=backward,
            trace=Trace(
                steps=sum(backward),
                zero=sum(int(it.trace.zero.sum()) for it in found),
                not_finite=sum(int(it.trace.not_finite.sum()) for it in found),
                keeps_form=keeps_form,
                loss=_mean_course([it.trace.loss[:, it.quality > 0].cpu() for it in found]),
                quality=(),
            ),
        )

    def _problem(self, model: Model, images: Tensor, eps: Tensor) -> Problem:
        x, y = self.x[images].to(self.device), self.y[images].to(self.device)
        return Problem(model, x, y, eps.to(x), self.norm, Classification().quality)


@contextmanager
def frozen(model: nn.Module) -> Iterator[torch.device]:
    """Put a model into evaluation mode without gradients of parameters, and back as it was.

    Yields:
        The device of its parameters; the CPU if it has none.
    """
    modes = [(module, module.training) for module in model.modules()]
    wanted = [(parameter, parameter.requires_grad) for parameter in model.parameters()]
    model.eval().requires_grad_(False)
    try:
        yield next((parameter.device for parameter, _ in wanted), torch.device("cpu"))
    finally:
        for module, mode in modes:
            module.training = mode
        for parameter, grad in wanted:
            parameter.requires_grad_(grad)


def true_probability(logits: Tensor, y: Tensor) -> Tensor:
    """Quality (B,) for pictures: the probability of the true class, which noise goes on to lower."""
    return logits.float().softmax(1).gather(1, y[:, None])[:, 0]


def _mean_course(courses: Sequence[Tensor]) -> tuple[float, ...]:
    """Mean loss at each step over the images of all batches that stood to the end; () without any."""
    stood = [course for course in courses if course.shape[1] and len(course)]
    return rounded(torch.cat(stood, 1).double().mean(1).tolist()) if stood else ()
