from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from nnunet_ima.classification.audit import AuditSettings, ClassifierAudit, audit_classifier
from nnunet_ima.classification.examples import noisy_examples
from nnunet_ima.evidence.store import Store

Audited = Callable[..., ClassifierAudit]
IMAGES, SIDE = 30, 8


class Linear(nn.Module):
    """Two classes, told apart by a plane; its outputs may be rounded, which leaves no gradient."""

    def __init__(self, rounding: float | None = None, factor: float = 1.0) -> None:
        super().__init__()
        self.layer = nn.Linear(SIDE * SIDE, 2)
        weight = torch.randn(2, SIDE * SIDE, generator=torch.Generator().manual_seed(0))
        self.layer.weight = nn.Parameter(factor * weight / weight.norm())
        self.layer.bias = nn.Parameter(-(self.layer.weight * 0.5).sum(1))
        self.rounding = rounding

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.layer(x.flatten(1))
        return logits if self.rounding is None else (logits / self.rounding).round() * self.rounding


def images() -> tuple[Tensor, Tensor, tuple[str, ...]]:
    """Images, classes, all right but for the first two, and ids."""
    x = torch.rand(IMAGES, 1, SIDE, SIDE, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        y = Linear()(x).argmax(1)
    y[:2] = 1 - y[:2]
    return x, y, tuple(f"image{number}" for number in range(IMAGES))


def distances() -> Tensor:
    """L2 distance (N,) of the images from the boundary."""
    model, (x, _, _) = Linear(), images()
    with torch.no_grad():
        logits = model(x)
        return (logits[:, 0] - logits[:, 1]).abs() / (model.layer.weight[0] - model.layer.weight[1]).norm()


@pytest.fixture
def settings() -> AuditSettings:
    """Levels in a unit of four times as many pixels: an ε of 1 is a norm of 0.5."""
    return AuditSettings(
        eps=(0.1, 0.3, 0.9),
        reference_elements=4 * SIDE * SIDE,
        pgd_steps=20,
        apgd_steps=20,
        square_queries=30,
        spsa_samples=16,
        spsa_steps=10,
        spsa_images=8,
        noise_draws=3,
        check_images=20,
        batch_size=8,
    )


@pytest.fixture
def audited(tmp_path: Path, settings: AuditSettings) -> Callable[..., ClassifierAudit]:
    """Audit a model: its name, the model, the folder."""

    def make(name: str = "linear", model: nn.Module | None = None, folder: Path = tmp_path / "a") -> ClassifierAudit:
        return audit_classifier(name, model or Linear(), *images(), settings, Store(folder, {}, {}))

    return make


def files(folder: Path) -> dict[str, bytes]:
    return {str(file.relative_to(folder)): file.read_bytes() for file in folder.rglob("*.json")}


def test_a_linear_classifier_falls_exactly_where_its_distances_say(audited: Audited, settings: AuditSettings) -> None:
    found = audited()
    distance = 2 * distances()  # in the unit of the settings
    assert found.clean.correct == (0, 0, *[1] * (IMAGES - 2))
    for (attack, eps), result in found.attacks.items():
        stands = (distance > eps) & torch.tensor(found.clean.correct).bool()
        near = (distance / eps - 1).abs() < 0.02
        assert near.sum() <= 1
        assert ((torch.tensor(result.correct) == stands) | near).all(), (attack, eps)
        predicted = torch.tensor(result.predicted)
        assert torch.equal(predicted == images()[1], torch.tensor(result.correct).bool())
    assert all(row.conclusive and row.result == "passed" for row in found.verdicts), found.verdicts


def test_the_smallest_noise_is_the_distance(audited: Audited, settings: AuditSettings) -> None:
    minimal = audited().minimal
    assert minimal is not None
    for found, distance, clean in zip(
        minimal.eps, (2 * distances()).tolist(), [0, 0] + [1] * (IMAGES - 2), strict=True
    ):
        if not clean:
            assert found == 0
        elif distance > settings.eps[-1]:
            assert found is None
        else:
            assert distance * 0.999 <= found <= 1.05 * distance
    assert None in minimal.eps
    assert sum(bool(eps) for eps in minimal.eps) > 10


def test_accuracy_falls_with_noise_and_what_is_broken_is_not_attacked_again(
    audited: Audited, settings: AuditSettings
) -> None:
    found = audited()
    pgd, apgd = settings.names
    before = found.clean
    for eps in settings.eps:
        first, worst = found.attacks[pgd, eps], found.attacks[apgd, eps]
        for image in range(IMAGES):
            assert worst.correct[image] <= first.correct[image] <= before.correct[image]
            assert first.carried[image] == 1 - before.correct[image]
            assert worst.carried[image] == 1 - first.correct[image]
            assert (first.forward[image] == 0) == bool(first.carried[image])
            assert worst.noise[image] <= worst.radius * (1 + 1e-6)
        before = first
    assert max(found.attacks[pgd, settings.eps[-1]].noise) > 0
    assert all(noise.correct != () and max(noise.correct) <= 1 for noise in found.noise.values())


class StopError(Exception):
    """Stands for a kill."""


@pytest.mark.parametrize("stop_at", ["noise-uniform@0.3", "apgd-20@0.1", "check-square@0.3", "minimal"])
def test_a_killed_audit_goes_on_to_the_same_files(
    audited: Audited, settings: AuditSettings, tmp_path: Path, stop_at: str
) -> None:
    whole = audited()

    def kill(place: str, share: float) -> None:
        if place == stop_at and share == 1:
            raise StopError

    store = Store(tmp_path / "b", {}, {})
    with pytest.raises(StopError):
        audit_classifier("linear", Linear(), *images(), settings, store, kill)
    assert len(files(tmp_path / "b")) < len(files(tmp_path / "a"))
    again = audited(folder=tmp_path / "b")
    assert files(tmp_path / "a") == files(tmp_path / "b")
    assert again == whole
    assert audited(folder=tmp_path / "b") == whole  # from the store alone


def test_one_more_level_measures_that_level_alone(
    settings: AuditSettings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    measured: set[str] = set()
    original = Store.put

    def put(store: Store, result: Any, *place: str, given: Sequence[str] = ()) -> Any:
        measured.add(place[-1])
        return original(store, result, *place, given=given)

    def audit(folder: str, eps: tuple[float, ...]) -> ClassifierAudit:
        store = Store(tmp_path / folder, replace(settings, eps=eps).question(), {})
        return audit_classifier("linear", Linear(), *images(), replace(settings, eps=eps), store)

    fresh = audit("fresh", (0.1, 0.3, 0.9))
    audit("out", (0.1, 0.3))
    monkeypatch.setattr(Store, "put", put)
    assert audit("out", (0.1, 0.3, 0.9)) == fresh
    assert {"noise-uniform@0.9", "pgd-20@0.9", "apgd-20@0.9", "check-huge@18", "minimal"} <= measured
    assert not [place for place in measured if place.endswith(("@0.1", "@0.3")) and not place.startswith("check-")]
    measured.clear()
    audit("out", (0.1, 0.3, 0.9))
    assert not measured
    between = audit("out", (0.1, 0.2, 0.3, 0.9))  # what 0.2 breaks is not attacked at 0.3 again
    assert {"pgd-20@0.2", "pgd-20@0.3", "pgd-20@0.9"} <= measured
    assert between.attacks == audit("other", (0.1, 0.2, 0.3, 0.9)).attacks


@pytest.mark.parametrize("content", ["", "[]", "{}"])
def test_damaged_results_are_measured_again(audited: Audited, tmp_path: Path, content: str, capsys) -> None:
    whole, before = audited(), files(tmp_path / "a")
    damaged = sorted((tmp_path / "a").glob("results/linear/test/*.json"))
    for file in damaged:
        file.write_text(content)
    assert audited() == whole
    assert files(tmp_path / "a") == before
    assert capsys.readouterr().err.count("is damaged; it is measured again") == len(damaged)


def test_masked_gradients_are_found_out(audited: Audited) -> None:
    found = audited("masked", Linear(rounding=0.02))
    failed = {row.check for row in found.verdicts if row.result == "failed"}
    assert "gradients are finite and do not vanish" in failed
    assert "no black-box attack beats the gradient" in failed
    assert not any(row.conclusive for row in found.verdicts)
    assert all("Dice" not in row.check + row.figure for row in found.verdicts)


@pytest.mark.parametrize("factor", [1e6, 1e-6])
def test_saturated_outputs_protect_nobody(audited: Audited, factor: float) -> None:
    """Logits so large that cross-entropy has no gradient left, or so small that it is flat; the same classes."""
    found, ordinary = audited("saturated", Linear(factor=factor)), audited()
    for place, result in ordinary.attacks.items():
        assert found.attacks[place].correct == result.correct
    assert all(row.conclusive for row in found.verdicts)


def test_without_a_temperature_saturated_outputs_are_found_out(
    audited: Audited, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("nnunet_ima.classification.under_attack.temperature", lambda logits: 1.0)
    found = audited("saturated", Linear(factor=1e6))
    assert "failed" in {row.result for row in found.verdicts}


class Unsteady(Linear):
    """Each pass gives other outputs."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward(x) + 1e-4 * torch.rand(len(x), 2)


def test_a_model_that_is_not_deterministic_is_found_out(audited: Audited) -> None:
    found = audited("unsteady", Unsteady())
    (row,) = (row for row in found.verdicts if row.check == "the model is deterministic")
    assert row.result == "failed"


def test_the_largest_change_of_a_pixel_bounds_noise_too(settings: AuditSettings, tmp_path: Path) -> None:
    model, (x, y, ids) = Linear(), images()
    settings = replace(settings, norm="Linf", eps=(0.01, 0.05))
    found = audit_classifier("linear", model, x, y, ids, settings, Store(tmp_path / "a", {}, {}))
    with torch.no_grad():
        logits = model(x)
        slope = (model.layer.weight[0] - model.layer.weight[1]).abs().sum()
        distance = (logits[:, 0] - logits[:, 1]).abs() / slope
    right = torch.tensor(found.clean.correct).bool()
    for eps in settings.eps:
        result = found.attacks[settings.names[-1], eps]
        stands, near = (distance > eps) & right, (distance / eps - 1).abs() < 0.02
        assert ((torch.tensor(result.correct) == stands) | near).all()
        assert result.radius == eps
    assert found.minimal is not None
    for minimal, exact in zip(found.minimal.eps, distance.tolist(), strict=True):
        assert minimal in (0, None) or 0.999 * exact <= minimal <= 1.05 * exact


def test_without_noise_there_is_nothing_to_judge(settings: AuditSettings, tmp_path: Path) -> None:
    found = audit_classifier("linear", Linear(), *images(), replace(settings, eps=()), Store(tmp_path / "a", {}, {}))
    assert found.attacks == {}
    assert found.probe is None
    assert {row.result for row in found.verdicts} == {"not run"}


def test_the_model_is_given_back_as_it_was(settings: AuditSettings, tmp_path: Path) -> None:
    model = torch.nn.Sequential(torch.nn.Conv2d(1, 2, SIDE), torch.nn.BatchNorm2d(2), torch.nn.Flatten())
    model[0].weight.requires_grad_(False)
    model[1].eval()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    audit_classifier("m", model, *images(), replace(settings, eps=(0.1,)), Store(tmp_path / "a", {}, {}))
    assert [parameter.requires_grad for parameter in model.parameters()] == [False, True, True, True]
    assert [module.training for module in model.modules()] == [True, True, False, True]
    assert all(torch.equal(before[key], value) for key, value in model.state_dict().items())


def test_an_image_under_growing_noise(settings: AuditSettings) -> None:
    x, y, _ = images()
    image = int(distances()[2:].argmin()) + 2
    names = ("ill", "well")
    shown = noisy_examples(Linear(), x[image], int(y[image]), names, settings)
    assert [it.eps for it in shown] == [0, *settings.eps]
    for it in shown:
        assert np.linalg.norm(it.image - x[image, 0].numpy()) == pytest.approx(it.eps / 2, rel=1e-3, abs=1e-7)
        assert it.right == (it.eps < 2 * distances()[image]) == (it.predicted == names[int(y[image])])


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"eps": (3.0, 1.0)}, "ascend"),
        ({"eps": (0.0,)}, "above 0"),
        ({"norm": "L1"}, "unknown norm"),
        ({"spsa_samples": 3}, "even"),
        ({"batch_size": 0}, "batch_size"),
    ],
)
def test_settings_that_make_no_sense_are_refused(settings: AuditSettings, change: dict, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        replace(settings, **change)


def test_images_that_do_not_fit_are_refused(audited: Audited, settings: AuditSettings, tmp_path: Path) -> None:
    x, y, ids = images()
    store = Store(tmp_path / "a", {}, {})
    with pytest.raises(ValueError, match="as many"):
        audit_classifier("linear", Linear(), x, y[1:], ids, settings, store)
    audited()
    with pytest.raises(ValueError, match="other images"):
        audit_classifier("linear", Linear(), x[1:], y[1:], ids[1:], settings, store)
    broken = Linear()
    with torch.no_grad():
        broken.layer.bias.fill_(torch.nan)
    with pytest.raises(ValueError, match="not finite"):
        audited("broken", broken)
