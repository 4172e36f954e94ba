from __future__ import annotations

import csv
import json
from dataclasses import replace
from pathlib import Path

import pytest

from nnunet_ima.classification.audit import ClassifierAudit
from nnunet_ima.classification.audit_settings import AuditSettings
from nnunet_ima.classification.records import AttackedImages, Clean, Minimal, Noise
from nnunet_ima.classification.summary import choose, image_rows, summarise_classifiers, write_classifier_summary
from nnunet_ima.evidence.records import Judgement, Passes, Trace

SETTINGS = AuditSettings(eps=(1.0, 5.0), pgd_steps=10, apgd_steps=10)
LABELS, IDS, CLASSES = [1, 1, 1, 0, 0], ["a", "b", "c", "d", "e"], ("well", "ill")
LOGITS = ((0.0, 2.0), (0.0, 1.0), (1.0, 0.0), (3.0, 0.0), (0.5, 0.0))


def attacked(eps: float, correct: list[int]) -> AttackedImages:
    predicted = [label if right else 1 - label for label, right in zip(LABELS, correct, strict=True)]
    return AttackedImages(
        eps=eps,
        radius=eps,
        predicted=tuple(predicted),
        correct=tuple(correct),
        carried=(0,) * 5,
        noise=(eps,) * 5,
        forward=(11,) * 5,
        backward=(10,) * 5,
        trace=Trace(steps=50, zero=0, not_finite=0, keeps_form=True, loss=(), quality=()),
    )


@pytest.fixture
def audit() -> ClassifierAudit:
    """Image c is wrong without noise; a falls at 1, d to APGD alone and b at 5, and e stands all noise."""
    attacks = {
        ("pgd-10", 1.0): attacked(1.0, [0, 1, 0, 1, 1]),
        ("apgd-10", 1.0): attacked(1.0, [0, 1, 0, 0, 1]),
        ("pgd-10", 5.0): attacked(5.0, [0, 0, 0, 1, 1]),
        ("apgd-10", 5.0): attacked(5.0, [0, 0, 0, 0, 1]),
    }
    check = Judgement(model="ima", check="c", result="passed", figure="f", conclusive=True)
    return ClassifierAudit(
        name="ima",
        clean=Clean(logits=LOGITS, predicted=(1, 1, 0, 0, 0), correct=(1, 1, 0, 1, 1)),
        noise={eps: Noise(eps=eps, correct=(1.0, 1.0, 0.0, 1.0, 0.6), logits=LOGITS) for eps in SETTINGS.eps},
        attacks=attacks,
        probe=None,
        minimal=Minimal(eps=(0.5, 3.0, 0.0, 0.8, None), passes=Passes(forward=9, backward=8)),
        verdicts=[check],
    )


def test_rows_hold_each_attack_and_the_worst(audit: ClassifierAudit) -> None:
    clean, first, second = summarise_classifiers([audit], LABELS, IDS, CLASSES, "ill", SETTINGS)["rows"]
    assert [row["accuracy"]["value"] for row in (clean, first, second)] == [0.8, 0.4, 0.2]
    assert [row["sensitivity"]["value"] for row in (clean, first, second)] == pytest.approx([2 / 3, 1 / 3, 0])
    assert [row["specificity"]["value"] for row in (clean, first, second)] == [1, 0.5, 0.5]
    assert {attack: share["value"] for attack, share in first["attacks"].items()} == {"pgd-10": 0.6, "apgd-10": 0.4}
    assert clean["noise"] is None
    assert first["noise"]["value"] == pytest.approx(0.72)
    assert second["rms"] == pytest.approx(5 / 224)
    assert first["accuracy"]["low"] < 0.4 < first["accuracy"]["high"]


def test_models_hold_what_belongs_to_no_level(audit: ClassifierAudit) -> None:
    summary = summarise_classifiers([audit], LABELS, IDS, CLASSES, "ill", SETTINGS)
    (model,) = summary["models"]
    assert model["mean_accuracy"] == pytest.approx(0.3)
    assert model["auc"]["value"] == pytest.approx(5 / 6)  # c scores below e, and above d
    assert model["minimal"]["quantiles"]["0.5"] == 0.8
    assert model["minimal"]["quantiles"]["0.95"] is None
    assert model["minimal"]["median_rms"] == pytest.approx(0.8 / 224)
    assert (model["minimal"]["wrong_without_noise"], model["minimal"]["stood_all"]) == (1, 1)
    assert model["passes"] == {"forward": 220, "backward": 200}
    assert summary["conclusive"]
    assert summary["best"] == "ima"
    failed = replace(audit, verdicts=[replace(audit.verdicts[0], result="failed", conclusive=False)])
    summary = summarise_classifiers([audit, failed], LABELS, IDS, CLASSES, "ill", SETTINGS)
    assert not summary["conclusive"]
    assert [model["conclusive"] for model in summary["models"]] == [True, False]


def test_files_hold_the_same(audit: ClassifierAudit, tmp_path: Path) -> None:
    summary = summarise_classifiers([audit], LABELS, IDS, CLASSES, "ill", SETTINGS)
    images = image_rows([audit], LABELS, IDS, CLASSES, SETTINGS)
    write_classifier_summary(summary, images, tmp_path)
    assert json.loads((tmp_path / "summary.json").read_text()) == summary
    rows = list(csv.DictReader((tmp_path / "summary.csv").open()))
    assert [row["accuracy value"] for row in rows] == ["0.8", "0.4", "0.2"]
    assert [row["noise value"][:4] for row in rows] == ["", "0.72", "0.72"]
    cases = list(csv.DictReader((tmp_path / "cases.csv").open()))
    assert [case["id"] for case in cases] == IDS
    assert [case["predicted"] for case in cases] == ["ill", "ill", "well", "well", "well"]
    assert [case["minimal eps"] for case in cases] == ["0.5", "3.0", "0.0", "0.8", ""]
    assert [case["broken at"] for case in cases] == ["1.0", "5.0", "0.0", "1.0", ""]
    assert float(cases[0]["probability"]) == pytest.approx(0.880797)
    assert float(cases[1]["minimal rms"]) == pytest.approx(3 / 224)


def test_without_levels_or_search_there_are_no_numbers_of_them(audit: ClassifierAudit) -> None:
    settings = replace(SETTINGS, eps=(), minimal=False)
    bare = replace(audit, attacks={}, noise={}, minimal=None, verdicts=[])
    summary = summarise_classifiers([bare], LABELS, IDS, CLASSES, "ill", settings)
    assert len(summary["rows"]) == 1
    assert summary["models"][0]["minimal"] is None
    assert summary["best"] is None
    assert not summary["conclusive"]
    assert image_rows([bare], LABELS, IDS, CLASSES, settings)[2]["broken at"] == 0
    with pytest.raises(ValueError, match="'sick' is none of the classes well, ill"):
        summarise_classifiers([bare], LABELS, IDS, CLASSES, "sick", settings)


@pytest.mark.parametrize(
    ("models", "best"),
    [
        ({"ce": (0.95, 0.2), "ima": (0.90, 0.6), "adv": (0.88, 0.7)}, "adv"),
        ({"ce": (0.95, 0.2), "ima": (0.90, 0.6), "adv": (0.86, 0.7)}, "ima"),
        ({"ce": (0.98, 0.2), "ima": (0.90, 0.6)}, "ima"),  # 8 points below, exactly
        ({"a": (0.90, 0.6), "b": (0.95, 0.6)}, "b"),
    ],
)
def test_the_defence_to_take_costs_little_accuracy(models: dict[str, tuple[float, float]], best: str) -> None:
    rows = [
        {"model": name, "clean": {"accuracy": {"value": clean}}, "mean_accuracy": mean}
        for name, (clean, mean) in models.items()
    ]
    assert choose(rows) == best
