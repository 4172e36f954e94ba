from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch

from nnunet_ima.attacks.losses import CLASS_LOSSES, LOSSES, AttackLoss, find_loss
from nnunet_ima.attacks.presets import PRESETS, Component
from nnunet_ima.attacks.problem import Problem
from nnunet_ima.tasks.voxelwise import Labels, mean_dice_present

Make = Callable[..., Problem]
ALL = {component.name: component for components in PRESETS.values() for component in components}


ALONE = [name for name, component in ALL.items() if not component.races]  # racing ones are the same attacks


def few_steps(name: str) -> Component:
    return replace(ALL[name], steps=min(ALL[name].steps, 12))


def test_names_are_stable_because_results_are_stored_under_them() -> None:
    assert {name: [part.name for part in parts] for name, parts in PRESETS.items()} == {
        "noise-uniform": ["noise-uniform"],
        "noise-gaussian": ["noise-gaussian"],
        "fgsm": ["fgsm"],
        "ifgsm": ["ifgsm"],
        "pgd": ["pgd"],
        "apgd": ["apgd"],
        "segpgd": ["segpgd"],
        "cospgd": ["cospgd"],
        "few-slices": ["few-slices"],
        "few-slices-25": ["few-slices-25"],
        "one-slice": ["one-slice"],
        "square": ["square"],
        "spsa": ["spsa"],
        "quick": ["apgd-50"],
        "fast": ["apgd-dice", "apgd-balanced-ce"],
        "standard": ["pgd", "apgd-balanced-ce", "apgd-js", "apgd-dice", "segpgd"],
        "race": ["apgd-dice", "pgd-racing", "apgd-balanced-ce-racing", "apgd-js-racing", "segpgd-racing"],
        "full": [
            *("pgd", "apgd-balanced-ce", "apgd-js", "apgd-dice", "segpgd"),
            *("apgd-masked-ce", "apgd-cos", "apgd-dice-again", "apgd-dice-at-eps"),
        ],
    }


def test_a_name_stands_for_one_attack() -> None:
    for components in PRESETS.values():
        for component in components:
            assert component is ALL[component.name]
            assert component.loss is None or find_loss(component.loss, Labels()) in LOSSES.values()


@pytest.mark.parametrize("axes", [2, 3])
@pytest.mark.parametrize(("norm", "eps"), [("L2", 1.5), ("Linf", 0.15)])
@pytest.mark.parametrize("name", ALONE)
def test_every_attack_keeps_its_promises(
    segmentation: Make, generator: torch.Generator, name: str, norm: str, eps: float, axes: int
) -> None:
    problem = segmentation(axes, norm, eps)
    passes = torch.zeros(2, dtype=torch.long)

    class Counted(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x: torch.Tensor) -> torch.Tensor:
            passes[0] += len(x)
            return x.clone()

        @staticmethod
        def backward(ctx, gradient: torch.Tensor) -> torch.Tensor:
            passes[1] += len(gradient)
            return gradient

    counted = replace(problem, model=lambda x: problem.model(Counted.apply(x)))
    found = few_steps(name).run(counted, Labels(), generator)
    clean = problem.quality(problem.model(problem.x), problem.y)
    assert torch.equal(problem.quality(problem.model(found.x), problem.y), found.quality)
    assert (found.quality <= clean).all()
    assert (problem.norm.size(found.x.double() - problem.x) <= eps * (1 + 1e-6)).all()
    assert passes.tolist() == [found.forward.sum().item(), found.backward.sum().item()]
    assert (found.trace.zero == 0).all()
    assert (found.trace.not_finite == 0).all()
    if "noise" not in name:
        assert (found.quality < clean).any()
        changed = found.x != problem.x
        assert changed[problem.x < -0.1].any()  # nothing is clamped to [0, 1]
        assert found.x.min() < -0.1
        assert found.x.max() > 1.1


@pytest.mark.parametrize("name", ALONE)
def test_no_sample_depends_on_the_others(segmentation: Make, name: str) -> None:
    """Others that are broken from the start leave at once; the first sample must not notice."""
    problem = segmentation(samples=3)
    broken = problem.y.clone()
    broken[1:] = 1 - (problem.model(problem.x).argmax(1, keepdim=True)[1:] > 0).long()
    first, again = (
        few_steps(name).run(replace(problem, y=y), Labels(), torch.Generator().manual_seed(0))
        for y in (problem.y, broken)
    )
    torch.testing.assert_close(first.x[0], again.x[0], atol=1e-4, rtol=0)
    assert torch.equal(first.quality[0], again.quality[0])
    assert first.forward[0] == again.forward[0]
    assert first.backward[0] == again.backward[0]


@pytest.mark.parametrize("name", ALONE)
def test_region_based_targets_are_served(segmentation: Make, generator: torch.Generator, name: str) -> None:
    labels, problem = Labels(regions=True, ignore=9), segmentation(samples=2)
    y = torch.cat([problem.y > 0, problem.y > 1, torch.zeros_like(problem.y)], 1).long()
    network = problem.model

    def model(x: torch.Tensor) -> torch.Tensor:
        z = network(x)
        return torch.stack([z[:, 1:].amax(1) - z[:, 0], z[:, 2] - z[:, :2].amax(1)], 1)

    regions = replace(problem, model=model, y=y, quality=lambda z, t: mean_dice_present(z, t, labels))
    found = few_steps(name).run(regions, labels, generator)
    assert torch.equal(regions.quality(model(found.x), y), found.quality)


def test_known_noise_is_where_attacks_begin(segmentation: Make, generator: torch.Generator) -> None:
    problem = segmentation(eps=2.0)
    best = ALL["apgd-dice"].run(problem, Labels(), generator)
    for name in ("pgd", "apgd", "apgd-50", "segpgd", "cospgd", "ifgsm"):
        again = few_steps(name).run(problem, Labels(), generator, start=best.x - problem.x)
        assert (again.quality <= best.quality + 0.02).all()


def test_a_model_that_hides_its_gradients_is_told_by_its_trace(segmentation: Make, generator: torch.Generator) -> None:
    """Rounding the input has a zero gradient: gradient attacks see zeros, the Square attack gets through."""
    problem = segmentation(norm="Linf", eps=0.6)
    network = problem.model
    masked = replace(problem, model=lambda x: network((x * 10).round() / 10))
    pgd = few_steps("pgd").run(masked, Labels(), generator)
    square = replace(ALL["square"], steps=100).run(masked, Labels(), generator)
    assert pgd.trace.zero.tolist() == pgd.backward.tolist()
    assert square.quality.mean() < pgd.quality.mean() - 0.05


def test_only_numbers_of_gradient_steps_are_changed() -> None:
    changed = {name: PRESETS[name][0].with_steps(7).steps for name in PRESETS}
    assert {name for name, steps in changed.items() if steps != 7} == {
        "fgsm",
        "square",
        "spsa",
        "noise-uniform",
        "noise-gaussian",
    }
    assert PRESETS["pgd"][0].with_steps(None) is PRESETS["pgd"][0]


def test_only_a_loss_that_changes_says_so() -> None:
    assert {name for name, loss in {**LOSSES, **CLASS_LOSSES}.items() if not loss.keeps_form} == {"segpgd"}
    assert {name for name in ALONE if not ALL[name].keeps_form(Labels())} == {"segpgd"}


@pytest.mark.parametrize("name", ["fgsm", "ifgsm", "pgd", "apgd", "apgd-50", "square", "spsa"])
def test_attacks_without_a_loss_of_their_own_serve_classifiers_too(
    linear: Make, generator: torch.Generator, name: str
) -> None:
    problem = linear(eps=1.0, shape=(1, 6, 6), samples=8)
    found = few_steps(name).run(problem, None, generator)
    assert (found.quality < problem.quality(problem.model(problem.x), problem.y)).all()


def test_a_loss_of_another_task_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match="segpgd is no loss of classification, whose losses are cross_entropy"):
        find_loss("segpgd", None)
    monkeypatch.setitem(LOSSES, "toy", AttackLoss(LOSSES["js"].function, keeps_form=False))
    assert not replace(ALL["pgd"], loss="toy").keeps_form(Labels())
