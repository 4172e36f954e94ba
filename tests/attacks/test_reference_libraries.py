"""Attacks of maintained libraries on the same network, with the same loss, norm, ε and number of gradients.

The libraries know classifiers and images in [0, 1] only: a segmentation network becomes a classifier of two classes
whose cross-entropy rises with the segmentation's loss, and the box is set so wide, or the images so grey, that nothing
meets it. That class's gradient is the loss's up to a positive factor, which no norm's steepest direction knows.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch

from nnunet_ima.attacks.apgd import apgd
from nnunet_ima.attacks.losses import bound
from nnunet_ima.attacks.pgd import pgd
from nnunet_ima.attacks.problem import Loss, Problem
from nnunet_ima.attacks.square import square
from nnunet_ima.tasks.voxelwise import Labels

Make = Callable[..., Problem]
STEPS = 40
BUDGETS = [("L2", 5.0), ("Linf", 0.4)]
GREY = 0.05  # images are squeezed to 0.5 ± this times their values


def quality(problem: Problem, x: torch.Tensor) -> torch.Tensor:
    return problem.quality(problem.model(x), problem.y)


class Classifier(torch.nn.Module):
    """Cross-entropy with class 0 is softplus(loss)."""

    def __init__(self, problem: Problem, loss: Loss) -> None:
        super().__init__()
        self.problem, self.loss = problem, loss
        self.somewhere = torch.nn.Parameter(torch.zeros(1))  # libraries ask the parameters for the device

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        value = self.loss(self.problem.model(x), self.problem.y, 0.0)
        return torch.stack([torch.zeros_like(value), value], 1)


@pytest.fixture(params=BUDGETS, ids=lambda budget: budget[0])
def grey(request: pytest.FixtureRequest, segmentation: Make) -> Problem:
    """The segmentation problem on images in [0, 1]."""
    norm, eps = request.param
    problem = segmentation(norm=norm, eps=eps * GREY)
    return replace(problem, x=0.5 + GREY * problem.x, model=lambda x: problem.model((x - 0.5) / GREY))


@pytest.mark.parametrize("random_start", [True, False])
@pytest.mark.parametrize(("norm", "eps"), BUDGETS)
def test_pgd_is_not_weaker_than_foolbox(
    segmentation: Make, generator: torch.Generator, norm: str, eps: float, random_start: bool
) -> None:
    foolbox = pytest.importorskip("foolbox", reason="foolbox is not installed")
    problem, loss = segmentation(norm=norm, eps=eps), bound("dice_ce", Labels())
    base = {"L2": foolbox.attacks.L2PGD, "Linf": foolbox.attacks.LinfPGD}[norm]

    class Reference(base):
        def get_loss_fn(self, model, labels):
            return lambda x: torch_loss(x.raw)

        def value_and_grad(self, loss_fn, x):
            import eagerpy

            z = x.raw.clone().requires_grad_()
            value = loss_fn(x.__class__(z))
            return value.detach(), eagerpy.astensor(torch.autograd.grad(value, z)[0])

    def torch_loss(x: torch.Tensor) -> torch.Tensor:
        return loss(problem.model(x), problem.y, 0.0).sum()

    network = torch.nn.Sequential(torch.nn.Identity())
    network.forward = problem.model
    model = foolbox.PyTorchModel(network.eval(), bounds=(-100, 100), device="cpu")
    with torch.random.fork_rng():
        torch.manual_seed(0)
        attack = Reference(rel_stepsize=4 / STEPS, steps=STEPS, random_start=random_start)
        theirs = attack.run(model, problem.x, foolbox.criteria.Misclassification(problem.y), epsilon=eps)
    assert (problem.norm.size(theirs - problem.x) <= eps * 1.0001).all()
    ours = pgd(problem, loss, steps=STEPS, generator=generator, random_start=random_start)
    assert quality(problem, theirs).mean() < quality(problem, problem.x).mean() - 0.05  # theirs is an attack
    assert ours.backward.tolist() == [STEPS] * 4
    assert ours.quality.mean() <= quality(problem, theirs).mean() + 0.01


@pytest.mark.parametrize("name", ["dice_ce", "dice", "js"])
def test_apgd_from_the_same_start_is_that_of_torchattacks(grey: Problem, generator: torch.Generator, name: str) -> None:
    torchattacks = pytest.importorskip("torchattacks", reason="torchattacks is not installed")
    loss, eps = bound(name, Labels()), float(grey.eps[0])
    with torch.random.fork_rng():
        attack = torchattacks.APGD(Classifier(grey, loss), norm=grey.norm.name, eps=eps, steps=100, loss="ce")
        torch.manual_seed(0)
        _, theirs = attack.perturb(grey.x, torch.zeros(4, dtype=torch.long), best_loss=True)
        torch.manual_seed(0)  # it starts at the boundary of the ball
        start = torch.randn(grey.x.shape) if grey.norm.name == "L2" else 2 * torch.rand(grey.x.shape) - 1
        start = start / grey.norm.size(start)[:, None, None, None] * eps
    assert (grey.norm.size(theirs - grey.x) <= eps * 1.001).all()
    assert quality(grey, theirs).mean() < quality(grey, grey.x).mean() - 0.05  # theirs is an attack
    ours = apgd(grey, loss, steps=100, generator=generator, start=start)
    assert ours.quality.mean() <= quality(grey, theirs).mean() + 0.01
    torch.testing.assert_close(
        ours.trace.loss.amax(0).mean(), loss(grey.model(theirs), grey.y, 0.0).mean(), rtol=0.02, atol=0
    )


def test_square_is_not_weaker_than_torchattacks(grey: Problem, generator: torch.Generator) -> None:
    torchattacks = pytest.importorskip("torchattacks", reason="torchattacks is not installed")
    loss, eps, one = bound("dice_ce", Labels()), float(grey.eps[0]), torch.arange(1)
    gain = []
    for sample in range(len(grey.x)):  # theirs sends parts of a batch
        problem = grey.take(torch.tensor([sample]))

        class Margin(Classifier):
            """Theirs lowers the margin of class 0 and stops at 0."""

            def forward(self, x: torch.Tensor) -> torch.Tensor:
                return 100 - super().forward(x).flip(1)

        with torch.random.fork_rng():
            attack = torchattacks.Square(
                Margin(problem, loss), norm=problem.norm.name, eps=eps, n_queries=300, loss="margin", seed=0
            )
            attack.init_hyperparam(problem.x)
            torch.manual_seed(0)
            _, theirs = attack.attack_single_run(problem.x, one)
        ours = square(problem, lambda z, y: -loss(z, y, 0.0), queries=300, generator=generator)
        gain.append(quality(problem, theirs) - ours.quality)
    assert torch.cat(gain).mean() >= -0.01
