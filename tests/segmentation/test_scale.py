"""A model's logits on another scale, or rounded: the same label maps, so the same robustness or no verdict."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from nnunet_ima.attacks.presets import PGD, PRESETS
from nnunet_ima.attacks.temperature import ORDINARY, Tempered, spread, temperature
from nnunet_ima.evidence.findings import Findings
from nnunet_ima.evidence.store import Store
from nnunet_ima.inference.cases import Case, dataset_cases
from nnunet_ima.inference.model import TrainedModel, open_model
from nnunet_ima.inference.pipeline import Pipeline
from nnunet_ima.segmentation.run import run_audit
from nnunet_ima.segmentation.settings import Settings

SETTINGS = Settings(
    attacks=("pgd",),
    eps=(0.05,),
    unit="rms",
    norm="L2",
    reference_elements=None,
    steps=20,
    seed=0,
    threshold=0.5,
    margins=False,
    tolerance=2.0,
    save_adversarial=False,
)


class Rounded(nn.Module):
    """A network that tells its logits in steps, which have no gradient."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.network(x)
        return (logits * 4).round() / 4


def scaled(model: TrainedModel, factor: float) -> TrainedModel:
    for layer in model.networks[0].decoder.seg_layers:
        layer.weight.data *= factor
        layer.bias.data *= factor
    return model


@pytest.fixture(autouse=True, scope="module")
def few_queries() -> Iterator[None]:
    """The black box has nothing to do with scales."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("nnunet_ima.segmentation.probes.QUERIES", 10)
        yield


@pytest.fixture(scope="module")
def case(phantom) -> Case:
    return dataset_cases(phantom.name, ["0"], allow_training_cases=True)[0]


def audit(model: TrainedModel, case: Case, folder: Path, settings: Settings = SETTINGS) -> Findings:
    store = Store(folder, {}, {})
    return run_audit({"m": Pipeline(model, mirroring=False)}, [case], settings, store, probes=1)


def dice(findings: Findings) -> tuple[float, float]:
    """Without noise and under attack."""
    clean, attacked = findings.records
    return clean.dice, attacked.dice


@pytest.fixture(scope="module")
def ordinary(trained_model: Path, case: Case, tmp_path_factory: pytest.TempPathFactory) -> Findings:
    return audit(open_model(trained_model), case, tmp_path_factory.mktemp("ordinary") / "out")


def test_the_ordinary_model_is_shaken(ordinary: Findings) -> None:
    assert ordinary.conclusive, [row for row in ordinary.verdicts if row.result != "passed"]
    clean, attacked = dice(ordinary)
    assert attacked < clean - 0.2


@pytest.mark.parametrize("factor", [30, 1 / 30])
def test_scaled_logits_change_nothing(
    trained_model: Path, case: Case, tmp_path: Path, ordinary: Findings, factor: float
) -> None:
    found = audit(scaled(open_model(trained_model), factor), case, tmp_path / "out")
    assert dice(found) == pytest.approx(dice(ordinary), abs=0.02)


def test_without_a_temperature_the_check_of_the_scale_fails(
    trained_model: Path, case: Case, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What makes a scaled model look robust, most of all under a masked loss, is found by the probe alone, too."""
    monkeypatch.setitem(PRESETS, "pgd", (replace(PGD, loss="balanced_masked_ce"),))
    monkeypatch.setattr("nnunet_ima.segmentation.target.temperature", lambda logits, regions: 1.0)
    found = audit(scaled(open_model(trained_model), 100), case, tmp_path / "out", replace(SETTINGS, eps=(0.15,)))
    assert not found.conclusive
    failed = {row.check for row in found.verdicts if row.result == "failed"}
    assert "no other scale of the logits finds much lower Dice" in failed


def test_logits_that_nnunet_cannot_hold_fail_their_case(trained_model: Path, case: Case, tmp_path: Path) -> None:
    found = audit(scaled(open_model(trained_model), 1e4), case, tmp_path / "out")
    assert not found.conclusive
    assert not found.records
    assert f"prediction of {case.name}" in found.failed[0].error


def test_rounded_logits_are_not_conclusive(trained_model: Path, case: Case, tmp_path: Path) -> None:
    model = open_model(trained_model)
    found = audit(replace(model, networks=(Rounded(model.networks[0]),)), case, tmp_path / "out")
    assert not found.conclusive
    assert "gradients are finite and do not vanish" in {row.check for row in found.verdicts if row.result == "failed"}


def test_spread_is_the_lead_of_the_winner_or_the_distance_from_0() -> None:
    logits = torch.tensor([[[1.0, 5.0], [4.0, 0.0], [3.0, 2.0]]])
    assert spread(logits).tolist() == [2.0]  # leads of 1 and 3
    assert spread(logits, regions=True).tolist() == [2.5]
    assert spread(torch.tensor([[3.0, -1.0]])).tolist() == [4.0]


@pytest.mark.parametrize("factor", [1e-3, 1.0, 1e3])
def test_any_scale_becomes_the_ordinary_one(factor: float) -> None:
    logits = factor * torch.randn(4, 3, 6, 6, generator=torch.Generator().manual_seed(0))
    model = Tempered(lambda x: x, temperature(logits))
    assert float(spread(model(logits)).mean()) == pytest.approx(ORDINARY)


@pytest.mark.parametrize("value", [0.0, 2.0, float("inf"), float("nan")])
def test_constant_and_broken_logits_are_left_as_they_are(value: float) -> None:
    assert temperature(torch.full((1, 2, 4, 4), value)) == 1.0
