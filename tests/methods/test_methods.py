"""Every method: it lowers its loss, stays in its ball, logs what it spends, and finds known distances."""

from __future__ import annotations

import math
from collections.abc import Sequence

import pytest
import torch
from torch import Tensor, nn

from nnunet_ima.classification.learner import ClassifierLearner, MixedPrecision
from nnunet_ima.methods import METHODS, Method, Run, make_method, options, parse_method
from nnunet_ima.methods.base import Step
from nnunet_ima.methods.climb import climb
from nnunet_ima.methods.ddn import DecoupledDirectionNorm
from nnunet_ima.methods.fat import Friendly
from nnunet_ima.methods.gairat import GeometryAware
from nnunet_ima.methods.ima import IncreasingMargin
from nnunet_ima.methods.mma import MaxMargin
from nnunet_ima.perturbation.budget import Budget
from nnunet_ima.perturbation.norms import L2, NORMS
from nnunet_ima.tasks.classification import Classification

SIZE = 6
NAMES = tuple(f"image {number}" for number in range(24))
NOISY = [name for name in METHODS if name != "plain"]


class Recorder(nn.Module):
    """A model that remembers every batch it was shown."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model, self.seen = model, []

    def forward(self, x: Tensor) -> Tensor:
        self.seen.append(x.detach().clone())
        logits: Tensor = self.model(x)
        return logits


def run(epochs: int = 10, norm: str = "L2", names: Sequence[str] = NAMES, reference: int = 4 * SIZE**2) -> Run:
    """A training on images of a quarter of the reference's pixels: ε on them is half as large."""
    return Run(tuple(names), epochs, Budget(norm, SIZE**2, reference))


def built(name: str, training: Run | None = None, eps: float = 0.5, **given: float) -> Method:
    method = make_method(name, training or run(), given | ({"eps": eps} if name != "plain" else {}))
    method.begin_epoch(0)
    return method


def learner(model: nn.Module, x: Tensor, y: Tensor, names: Sequence[str], seed: int = 0) -> ClassifierLearner:
    generator = torch.Generator().manual_seed(seed)
    return ClassifierLearner(MixedPrecision(model), x, y, names, Classification(), generator)


def step(method: Method, model: nn.Module, x: Tensor, y: Tensor, names: Sequence[str], seed: int = 0) -> Step:
    return method.step(learner(model, x, y, names, seed))


def problem() -> tuple[Tensor, Tensor]:
    """Images of two classes that differ in the mean of their left half."""
    generator = torch.Generator().manual_seed(1)
    y = torch.arange(len(NAMES)) % 2
    x = 0.3 * torch.rand(len(NAMES), 1, SIZE, SIZE, generator=generator) + 0.35
    x[:, :, :, :3] += 0.3 * (y[:, None, None, None] - 0.5)
    return x, y


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(SIZE**2, 16), nn.Tanh(), nn.Linear(16, 2))


def linear(weight: Tensor, bias: float = 0.0) -> nn.Module:
    """Two classes with the boundary weight · x + bias = 0; class 1 where that is positive."""
    layer = nn.Linear(weight.numel(), 2)
    with torch.no_grad():
        layer.weight[:] = torch.stack((-weight, weight)) / 2
        layer.bias[:] = torch.tensor([-bias, bias]) / 2
    return nn.Sequential(nn.Flatten(), layer)


def far_and_near() -> tuple[nn.Module, Tensor, Tensor, Tensor]:
    """A linear model with images at known distances (L2) from its boundary, all classified rightly."""
    generator = torch.Generator().manual_seed(2)
    weight = torch.randn(SIZE**2, generator=generator)
    x = 0.2 * torch.rand(8, 1, SIZE, SIZE, generator=generator) + 0.4
    y = torch.arange(8) % 2
    distance = torch.linspace(0.05, 0.4, 8) + 0.007
    normal = weight / weight.norm()
    flat = x.flatten(1)
    flat = flat - (flat @ normal)[:, None] * normal + ((2 * y - 1) * distance)[:, None] * normal
    return linear(weight), flat.reshape(x.shape), y, distance


@pytest.mark.parametrize("name", METHODS)
def test_a_few_steps_lower_the_loss(name: str) -> None:
    x, y = problem()
    model, method = network(), built(name)
    optimizer = torch.optim.Adam(model.parameters(), 0.01)
    losses = []
    for epoch in range(12):
        method.begin_epoch(epoch if name == "ima" else 0)
        optimizer.zero_grad()
        loss, log = step(method, model, x, y, NAMES)
        optimizer.step()
        method.learnt(model)
        losses.append(loss.item())
        assert log["forward"] >= len(x)
        assert log["backward"] >= len(x)
    assert losses[-1] < 0.8 * losses[0]


@pytest.mark.parametrize("norm", ["L2", "Linf"])
@pytest.mark.parametrize("name", NOISY)
def test_what_the_network_learns_from_is_inside_the_ball(name: str, norm: str) -> None:
    if (name, norm) == ("ddn", "Linf"):
        pytest.skip("DDN is for L2")
    x, y = problem()
    eps = 0.5 if norm == "L2" else 0.05
    training = run(norm=norm)
    method = built(name, training, eps=eps)
    model = Recorder(network())
    loss, _ = step(method, model, x, y, NAMES)
    learnt = [seen for seen in model.seen if len(seen) == len(model.seen[-1])][-1]
    bound = training.budget.effective(eps) * (1.05 if name == "mma" else 1)
    nearest = torch.stack([NORMS[norm].size(x - image).min() for image in learnt])
    assert float(nearest.max()) <= bound * (1 + 1e-5)
    assert float(nearest.max()) > 0
    assert torch.isfinite(loss)


def test_numbers_in_names_are_noise_levels() -> None:
    assert parse_method("adv10") == ("adv", 10.0)
    assert parse_method("trades2.5") == ("trades", 2.5)
    assert parse_method("ima") == ("ima", None)


@pytest.mark.parametrize("text", ["ce5", "advx", "adv-3", "", "IMA", "unknown"])
def test_unknown_methods_are_refused(text: str) -> None:
    with pytest.raises(ValueError, match="method"):
        parse_method(text)


def test_unknown_and_missing_settings_are_refused() -> None:
    with pytest.raises(ValueError, match="no setting tempo; it has eps"):
        make_method("adv", run(), {"eps": 1, "tempo": 3})
    with pytest.raises(ValueError, match="needs a noise level"):
        make_method("adv", run(), {})
    with pytest.raises(ValueError, match="L2 norm only"):
        make_method("ddn", run(norm="Linf"), {"eps": 1})
    assert options("ce") == options("plain") == {}


def test_ima_margins_of_a_linear_classifier_are_its_distances() -> None:
    model, x, y, distance = far_and_near()
    names = [f"{number}" for number in range(len(x))]
    training = run(epochs=10, names=names)
    method = built("ima", training, eps=1.0, bisection_tolerance=0.001)
    assert isinstance(method, IncreasingMargin)
    for epoch in range(20):
        method.begin_epoch(epoch)
        step(method, model, x, y, names, epoch)
        method.end_epoch()
        margins = torch.tensor([method.margins()[name] for name in names]) / 2
        if epoch == 9:
            overshoot = (margins - distance).max()
    # between two epochs a margin is at most one expansion above the distance, and right at it after a crossing
    assert float(overshoot) <= 0.05 + 1e-3
    assert torch.allclose(margins, distance, atol=0.05 + 1e-3)
    assert float((margins - distance).abs().min()) < 2e-3


def test_mma_margins_of_a_linear_classifier_are_its_distances() -> None:
    model, x, y, distance = far_and_near()
    names = [f"{number}" for number in range(len(x))]
    method = built("mma", run(names=names), eps=1.0, steps=20)
    assert isinstance(method, MaxMargin)
    score = model(x)[torch.arange(8), y] - model(x)[torch.arange(8), 1 - y]
    for epoch in range(3):
        nearest = method.nearest(model, learner(model, x, y, names, epoch), torch.arange(8), score.detach())
        method.end_epoch()
    assert torch.allclose(nearest.distance, distance, rtol=0.05)
    assert torch.allclose(L2().size(nearest.x - x), nearest.distance, atol=1e-5)
    wrong_side = model(nearest.x).detach()
    assert float((wrong_side[:, 0] - wrong_side[:, 1]).abs().max()) < 0.05  # on the boundary
    stored = torch.tensor([method.margins()[name] for name in names]) / 2
    assert torch.allclose(stored, distance.clamp_min(0.05), rtol=0.05)


def test_ddn_noise_on_a_linear_classifier_has_its_distance() -> None:
    model, x, y, distance = far_and_near()
    method = built("ddn", run(names=[""] * 8), eps=1.0, steps=200, first=0.2)
    assert isinstance(method, DecoupledDirectionNorm)
    noise = method.attack(model, learner(model, x, y, [""] * 8))
    assert torch.allclose(L2().size(noise), distance, rtol=0.1, atol=0.01)
    assert bool((model(x + noise).argmax(1) != y).all())
    assert all(weight.requires_grad and weight.grad is None for weight in model.parameters())


def test_ddn_finds_the_same_noise_in_any_unit() -> None:
    """Images and their noise four times as large: its steps are, too."""
    model, x, y, _ = far_and_near()
    found = []
    for scale in (1, 4):
        method = built("ddn", run(names=[""] * 8), eps=9.0, steps=10, first=0.2 * scale)
        assert isinstance(method, DecoupledDirectionNorm)
        scaled = learner(model, scale * x, y, [""] * 8)
        found.append(method.attack(lambda z, scale=scale: model(z / scale), scaled) / scale)
    torch.testing.assert_close(found[0], found[1], rtol=1e-4, atol=1e-6)


def test_images_that_are_wrong_are_learnt_as_they_are_by_ima_and_mma_and_ddn() -> None:
    model, x, y, _ = far_and_near()
    for name in ("ima", "mma", "ddn"):
        method = built(name, run(names=[str(i) for i in range(8)]), eps=1.0)
        seen = Recorder(model)
        loss, log = step(method, seen, x, 1 - y, [str(i) for i in range(8)])
        assert log.get("attacked", 0) == 0
        if name != "ddn":
            assert all(torch.equal(batch, x) for batch in seen.seen if len(batch))
        assert loss.item() == pytest.approx(nn.functional.cross_entropy(model(x), 1 - y).item(), rel=1e-5)


@pytest.mark.parametrize("name", NOISY)
def test_passes_are_those_that_were_made(name: str) -> None:
    x, y = problem()
    method, seen = built(name, run(), eps=0.5), Recorder(network())
    _, log = step(method, seen, x, y, NAMES)
    assert log["forward"] == sum(map(len, seen.seen))


def test_ima_of_boundary_samples_alone_begins_at_random() -> None:
    """The clean loss has no weight, and the gradient of nothing shows no direction."""
    model, x, y, _ = far_and_near()
    names = [str(i) for i in range(8)]
    method = built("ima", run(names=names), eps=1.0, beta=1.0, start="gradient", steps=3)
    _, log = step(method, model, x, y, names)
    assert log["attacked"] == 8
    assert log["backward"] - 2 * 8 <= 3 * 8
    random = built("ima", run(names=names), eps=1.0, beta=1.0, start="random", steps=3)
    assert step(random, model, x, y, names)[1] == log


def test_mma_leaves_images_with_a_sufficient_margin_alone() -> None:
    model, x, y, _ = far_and_near()
    names = [str(i) for i in range(8)]
    method = built("mma", run(names=names), eps=0.04, clean_share=0.0)  # 0.02 on these images, nearer than all
    loss, log = step(method, model, x, y, names)
    assert loss.item() == 0
    assert log["crossed"] == 0


def test_friendly_noise_stops_when_it_misleads() -> None:
    model, x, y, distance = far_and_near()
    names = [str(i) for i in range(8)]
    method = built("fat", run(names=names), eps=2.0, steps=50, alpha=50 * 0.02)
    assert isinstance(method, Friendly)
    for epoch, patience in ((0, 0), (4, 0), (5, 1), (9, 2)):
        method.begin_epoch(epoch)
        assert method.patience == patience
    zero, task = torch.zeros_like(x), Classification()
    eps = torch.full((8,), 1.0)
    sizes = []
    for patience in (0, 1, 2):
        found = climb(
            model,
            x,
            lambda logits, rows: task.loss(logits, y[rows]),
            norm=L2(),
            eps=eps,
            steps=50,
            factor=1.0,
            start=zero,
            right=lambda logits, rows: task.score(logits, y[rows]) >= 0,
            patience=patience,
        )
        sizes.append(L2().size(found.x - x))
        assert bool((model(found.x).argmax(1) != y).all())
    assert bool((sizes[0] <= distance + 0.02 + 1e-4).all())  # one step of 0.02 beyond, at most
    assert torch.allclose(sizes[1], sizes[0] + 0.02, atol=1e-4)
    assert torch.allclose(sizes[2], sizes[0] + 0.04, atol=1e-4)


def test_geometry_aware_weights_favour_images_near_the_boundary() -> None:
    method = built("gairat", run(epochs=10))
    assert isinstance(method, GeometryAware)
    weights = method.weights(torch.tensor([0, 5, 10]))
    assert weights.mean().item() == pytest.approx(1)
    expected = (1 + torch.tanh(-1 + 5 * (1 - 2 * torch.tensor([0.0, 5.0, 10.0]).double() / 10))) / 2
    assert torch.allclose(weights.double(), expected / expected.mean(), rtol=1e-4)
    far = built("gairat", run(epochs=10), shift=-50.0)  # where 1 + tanh is 0 in single precision
    assert isinstance(far, GeometryAware)
    assert far.weights(torch.tensor([10, 10, 10])).tolist() == pytest.approx([1, 1, 1])
    assert not method.counts
    method.begin_epoch(5)
    assert method.counts


def test_the_number_of_steps_that_an_image_stood_is_counted() -> None:
    model, x, y, distance = far_and_near()
    task = Classification()
    found = climb(
        model,
        x,
        lambda logits, rows: task.loss(logits, y[rows]),
        norm=L2(),
        eps=torch.full((8,), 1.0),
        steps=50,
        factor=1.0,  # steps of 0.02
        start=torch.zeros_like(x),
        right=lambda logits, rows: task.score(logits, y[rows]) >= 0,
    )
    assert torch.equal(found.right, torch.ceil(distance / 0.02).long())


def test_attacks_run_in_evaluation_mode_and_learning_does_not() -> None:
    x, y = problem()
    model = nn.Sequential(nn.Flatten(), nn.Dropout(0.5), nn.Linear(SIZE**2, 2))
    modes: list[tuple[bool, bool]] = []
    model.register_forward_hook(lambda module, inputs, output: modes.append((module.training, output.requires_grad)))
    for name in NOISY:
        modes.clear()
        model.train()
        step(built(name), model, x, y, NAMES)
        assert (True, True) in modes, name
        assert (True, False) not in modes, name
        assert model.training
        assert any(not training for training, _ in modes), name


def test_ensembling_ramps_up_and_learns_what_the_average_predicts() -> None:
    x, y = problem()
    method = built("te", run(epochs=20), begin=0.25, end=0.75, weight=8.0)
    ramped = []
    for epoch in (0, 4, 5, 10, 15, 19):
        method.begin_epoch(epoch)
        ramped.append(method.ramped)
    expected = [0, 0, 8 * math.exp(-5), 8 * math.exp(-5 / 4), 8, 8]
    assert ramped == pytest.approx(expected)

    model, past = network(), network()
    with torch.no_grad():
        for weight in past.parameters():
            weight.mul_(-2)
    plain = built("adv").step(learner(model, x, y, NAMES)).loss
    assert built("te").step(learner(model, x, y, NAMES)).loss == plain  # before the ramp it is adversarial training
    method.learnt(past)  # the average is this network's
    seen = Recorder(model)
    found = method.step(learner(seen, x, y, NAMES))
    noisy = seen.seen[-1]
    distance = (model(noisy).softmax(1) - past(x).softmax(1)).square().sum(1)
    again = nn.functional.cross_entropy(model(noisy), y) + 8 * distance.mean()
    assert found.loss.item() == pytest.approx(again.item(), rel=1e-5)


def test_ddn_is_not_weaker_than_foolbox() -> None:
    """The reference implementation, on a network: the noise found is no larger than 2 % more, in the mean."""
    foolbox = pytest.importorskip("foolbox", reason="foolbox is not installed")
    x, y = problem()
    model = network()
    optimizer = torch.optim.Adam(model.parameters(), 0.01)
    for _ in range(30):
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(x), y).backward()
        optimizer.step()
    method = built("ddn", run(reference=SIZE**2), eps=5.0, steps=100, first=1.0)
    assert isinstance(method, DecoupledDirectionNorm)
    ours = method.attack(model, learner(model, x, y, NAMES))
    attack = foolbox.attacks.DDNAttack(init_epsilon=1.0, steps=100, gamma=0.05)
    theirs = attack.run(foolbox.PyTorchModel(model.eval(), bounds=(-1e3, 1e3), device="cpu"), x, y) - x
    assert bool((model(x + ours).argmax(1) != y).all())
    assert float(L2().size(ours).mean()) <= 1.02 * float(L2().size(theirs).mean())
