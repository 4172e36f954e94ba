"""BPGD on models whose distance to the boundary is known, and beside an independent implementation."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nnunet_ima.ima.bpgd import BoundarySamples, Search, bpgd
from nnunet_ima.perturbation.norms import L2, NORMS
from nnunet_ima.tasks.base import Task
from nnunet_ima.tasks.classification import Classification
from nnunet_ima.tasks.segmentation import Segmentation


@dataclass
class Problem:
    model: Callable[[Tensor], Tensor]
    x: Tensor
    y: Tensor
    task: Task = field(default_factory=Classification)

    def attack(
        self, eps: float | Tensor, norm: str = "L2", seed: int = 0, rows: slice | None = None, **options
    ) -> BoundarySamples:
        x, y = (self.x, self.y) if rows is None else (self.x[rows], self.y[rows])
        x = x.clone().requires_grad_()
        logits = self.model(x)
        gradient = torch.autograd.grad(self.task.loss(logits, y).sum(), x)[0]
        if not options.pop("free_gradient", True):
            gradient = None
        return bpgd(
            self.model,
            x.detach(),
            y,
            torch.as_tensor(eps).expand(len(x)).clone(),
            norm=NORMS[norm],
            task=self.task,
            score=self.task.score(logits.detach(), y),
            expansion=options.pop("expansion", 0.1),
            generator=torch.Generator().manual_seed(seed),
            gradient=gradient,
            **options,
        )


@pytest.fixture
def linear() -> Problem:
    """A linear classifier that is right on all samples."""
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(2, 12, generator=generator)
    x = torch.randn(40, 12, generator=generator)
    return Problem(lambda z: z @ weight.T, x, (x @ weight.T).argmax(1))


@pytest.fixture
def network() -> Problem:
    """A small convolutional classifier, untrained, with the labels that it predicts."""
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(1, 8, 3), nn.InstanceNorm2d(8, affine=True), nn.Tanh(), nn.Flatten(), nn.Linear(8 * 36, 3)
    )
    x = torch.randn(12, 1, 8, 8)
    return Problem(model, x, model(x).argmax(1))


def distances(problem: Problem, norm: str) -> Tensor:
    """Distance of each sample to the boundary of a linear classifier: lead over the dual norm of its gradient."""
    x = problem.x.clone().requires_grad_()
    lead = problem.task.score(problem.model(x), problem.y)
    gradient = torch.autograd.grad(lead.sum(), x)[0]
    return lead.detach() / (gradient.norm(dim=1) if norm == "L2" else gradient.abs().sum(1))


@pytest.mark.parametrize("norm", ["L2", "Linf"])
@pytest.mark.parametrize("search", [Search(), Search(steps=4, tolerance=0.1)], ids=["paper", "default"])
def test_margins_on_a_linear_classifier(linear: Problem, norm: str, search: Search) -> None:
    distance = distances(linear, norm)
    eps = float(distance.sort().values[19:21].mean())
    found = linear.attack(eps, norm, search=search)
    assert torch.equal(found.crossed, distance < eps)
    torch.testing.assert_close(found.size[found.crossed], distance[found.crossed], rtol=0.01, atol=0)
    assert (found.size <= eps * (1 + 1e-5)).all()
    leads = linear.task.score(linear.model(found.x), linear.y)
    assert leads[found.crossed].abs().max() < 0.02
    assert (leads[~found.crossed] > 0).all()


@pytest.mark.parametrize("norm", ["L2", "Linf"])
def test_random_start_finds_the_same_crossings_and_stays_in_the_ball(linear: Problem, norm: str) -> None:
    distance = distances(linear, norm)
    eps = float(distance.sort().values[19:21].mean())
    found = linear.attack(eps, norm, free_gradient=False)
    sure = (distance - eps).abs() > 0.02 * eps
    assert torch.equal(found.crossed[sure], (distance < eps)[sure])
    assert (found.size <= eps * (1 + 1e-5)).all()
    assert (found.size[found.crossed] >= distance[found.crossed] * 0.99).all()


def test_margins_on_a_linear_segmenter() -> None:
    """Each voxel is judged by its own two channels; the target is one voxel; its flip takes the Dice to 0."""
    weight, lead = torch.tensor([3.0, -4.0]), torch.tensor([0.5, 1.0, 2.0, 4.0])

    def model(x: Tensor) -> Tensor:
        score = (x * weight.reshape(1, 2, 1, 1)).sum(1, keepdim=True)
        return torch.cat([-score / 2, score / 2], 1)

    x = torch.zeros(4, 2, 5, 5)
    x[:, 0] = -30 / 3  # background, far from the boundary
    x[:, 0, 2, 2] = lead / 3
    y = torch.zeros(4, 1, 5, 5, dtype=torch.int16)
    y[:, 0, 2, 2] = 1
    problem = Problem(model, x, y, Segmentation(tau=0.6))
    found = problem.attack(0.5, expansion=0.01, search=Search(steps=20, tolerance=0.001))
    distance = lead / weight.norm()
    assert found.crossed.tolist() == [True, True, True, False]
    torch.testing.assert_close(found.size[:3], distance[:3], rtol=0.01, atol=0)
    assert float(found.size[3]) <= 0.5 * (1 + 1e-5)


@pytest.mark.parametrize("free_gradient", [True, False])
def test_a_sample_does_not_depend_on_its_batch_mates(network: Problem, free_gradient: bool) -> None:
    together = network.attack(3.0, free_gradient=free_gradient)
    other = Problem(network.model, network.x.clone(), network.y)
    other.x[1:] = other.x[1:].flip(0) * 1.5
    other.y = other.model(other.x).argmax(1)
    mixed = other.attack(3.0, free_gradient=free_gradient)
    torch.testing.assert_close(together.x[0], mixed.x[0])
    assert int(together.forward[0]) == int(mixed.forward[0])
    if free_gradient:  # a batch of another size has other random starts
        alone = network.attack(3.0, rows=slice(0, 1))
        torch.testing.assert_close(together.x[0], alone.x[0])


def straightforward(
    problem: Problem, index: int, start: Tensor, eps: float, steps: int, alpha: float
) -> tuple[bool, Tensor]:
    """Algorithm 3 for one sample, with 40 plain bisections."""
    x, y = problem.x[index : index + 1], problem.y[index : index + 1]
    delta, right = start.clone(), torch.zeros_like(start)
    for number in range(steps + 1):
        z = (x + delta).requires_grad_()
        logits = problem.model(z)
        if int(logits.argmax(1)) != int(y):
            low, high = right, delta
            for _ in range(40):
                middle = (low + high) / 2
                still = int(problem.model(x + middle).argmax(1)) == int(y)
                low, high = (middle, high) if still else (low, middle)
            return True, low
        right = delta
        if number < steps:
            gradient = torch.autograd.grad(F.cross_entropy(logits, y), z)[0]
            delta = delta + alpha * eps / steps * gradient / gradient.norm()
            delta = delta * min(1.0, eps / float(delta.norm()))
    return False, delta


def test_agrees_with_an_independent_implementation(network: Problem) -> None:
    eps, expansion = 0.8, 0.2
    found = network.attack(eps, free_gradient=False, expansion=expansion, search=Search(tolerance=1e-4, bisections=60))
    noise = L2().random(network.x, torch.Generator().manual_seed(0)) * (eps - expansion)
    assert 0 < int(found.crossed.sum()) < len(network.x)
    for index in range(len(network.x)):
        crossed, delta = straightforward(network, index, noise[index : index + 1], eps, 20, 4.0)
        assert bool(found.crossed[index]) == crossed
        torch.testing.assert_close(found.x[index], (network.x[index] + delta[0]).detach(), atol=2e-3, rtol=0)


def test_passes_are_counted(network: Problem) -> None:
    passes = []

    def counted(x: Tensor) -> Tensor:
        passes.append(len(x))
        return network.model(x)

    found = Problem(counted, network.x, network.y).attack(3.0)
    assert int(found.forward.sum()) == sum(passes[1:])  # the first is the clean pass


def test_early_exit_spares_passes(network: Problem) -> None:
    search = Search(steps=20)
    found = network.attack(3.0, free_gradient=False, search=search)
    assert (found.forward[~found.crossed] == 21).all()
    assert (found.backward[~found.crossed] == 20).all()
    assert (found.backward[found.crossed] < 20).all()
    free = network.attack(3.0, search=search)
    assert (free.backward[~free.crossed] == 19).all()  # the first step rides on the clean pass


def test_weights_get_no_gradient(network: Problem) -> None:
    network.attack(3.0)
    assert all(parameter.grad is None for parameter in network.model.parameters())


def test_noise_stays_where_it_is_free(network: Problem) -> None:
    problem = Problem(
        lambda z: network.model(z[:, :1] + z[:, 1:]),
        network.x.repeat(1, 2, 1, 1) / 2,
        network.y,
    )
    free = torch.zeros(1, 2, 1, 1)
    free[:, 0] = 1
    for free_gradient in (True, False):
        found = problem.attack(3.0, free=free, free_gradient=free_gradient)
        assert (found.x - problem.x)[:, 1].abs().max() == 0
        assert found.crossed.any()


def test_no_start_is_drawn_that_nobody_uses(network: Problem, monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: list[int] = []
    draw = L2.random
    monkeypatch.setattr(L2, "random", lambda norm, x, generator: drawn.append(len(x)) or draw(norm, x, generator))
    network.attack(0.5)
    assert not drawn
    network.attack(0.5, free_gradient=False)
    assert drawn == [len(network.x)]


def test_a_vanished_gradient_at_the_start_falls_back_to_the_random_start() -> None:
    """Around 0 the model is flat: only a random start leaves the plateau."""

    def model(x: Tensor) -> Tensor:
        lead = 1 - 2 * F.relu(x.norm(dim=1) - 0.05)
        return torch.stack([lead, -lead], 1)

    x = torch.full((8, 3), 1e-4)
    problem = Problem(model, x, torch.zeros(8, dtype=torch.long))
    found = problem.attack(1.0, expansion=0.2)
    assert (found.size > 0.05).sum() >= 6
    assert found.crossed.any()


def test_a_ball_of_radius_0_holds_only_the_sample(linear: Problem) -> None:
    found = linear.attack(0.0)
    assert not found.crossed.any()
    assert torch.equal(found.x, linear.x)


def test_not_a_number_counts_as_wrong(linear: Problem) -> None:
    def broken(x: Tensor) -> Tensor:
        return linear.model(x) * torch.where((x - linear.x).abs().sum(1, keepdim=True) > 0, torch.nan, 1.0)

    problem = Problem(broken, linear.x, linear.y)
    found = problem.attack(1.0, search=Search(steps=3, bisections=0))
    assert found.crossed.all()
    assert found.x.isfinite().all()
