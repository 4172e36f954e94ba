"""Noise that was made for another model."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from nnunet_ima.evidence.findings import Findings
from nnunet_ima.evidence.records import Transferred
from nnunet_ima.evidence.store import Store
from nnunet_ima.inference.cases import Case
from nnunet_ima.inference.pipeline import Pipeline
from nnunet_ima.report.audit_table import audit_report
from nnunet_ima.report.markdown import markdown
from nnunet_ima.segmentation.run import run_audit
from nnunet_ima.segmentation.settings import Settings
from nnunet_ima.segmentation.summary import summarise
from nnunet_ima.segmentation.transfer import transfer_check

SETTINGS = Settings(
    attacks=("ifgsm", "fgsm"),
    eps=(0.1, 0.3),
    unit="rms",
    norm="L2",
    reference_elements=None,
    steps=2,
    seed=0,
    threshold=0.5,
    margins=False,
    tolerance=2.0,
    save_adversarial=False,
)


def audit(pipeline: Pipeline, cases: list[Case], folder: Path, *names: str) -> Findings:
    store = Store(folder, {"settings": SETTINGS.question(), "models": dict.fromkeys(names, 0), "cases": {}}, {})
    return run_audit(dict.fromkeys(names, pipeline), cases, SETTINGS, store, probes=0)


def test_the_same_model_falls_as_far_by_the_noise_of_its_twin(
    pipeline: Pipeline, cases: list[Case], tmp_path: Path, predicted: list[str]
) -> None:
    found = audit(pipeline, cases[:1], tmp_path / "out", "a", "b")
    assert {(it.model, it.source, it.eps) for it in found.transferred} == {
        (model, source, eps) for model, source in (("a", "b"), ("b", "a")) for eps in SETTINGS.eps
    }
    for record in found.transferred:
        own = min(it.dice for it in found.records if (it.model, it.eps) == (record.model, record.eps))
        assert record.dice == pytest.approx(own, abs=0.01)  # the noise was kept in half precision
    for model in "ab":
        checks = {it.check: it for it in found.verdicts if it.model == model}
        assert checks["no noise made for another model beats the attack"].result == "passed"

    predicted.clear()
    assert audit(pipeline, cases[:1], tmp_path / "out", "a", "b").transferred == found.transferred
    assert not predicted


def test_one_model_has_nobody_to_take_noise_from(pipeline: Pipeline, cases: list[Case], tmp_path: Path) -> None:
    found = audit(pipeline, cases[:1], tmp_path, "a")
    assert found.transferred == []
    assert all("another model" not in it.check for it in found.verdicts)


def test_noise_that_is_gone_or_of_another_grid_is_left_out(
    pipeline: Pipeline, cases: list[Case], tmp_path: Path
) -> None:
    audit(pipeline, cases[:1], tmp_path, "a")
    files = sorted((tmp_path / "images" / "a").rglob("noise_*.npy"))
    files[0].unlink()
    np.save(files[1], np.zeros((1, 2, 3, 4), np.float16))
    found = audit(pipeline, cases[:1], tmp_path, "a", "b")
    assert {it.source for it in found.transferred} == {"b"}


def test_the_check_fails_where_foreign_noise_does_better(make_findings: Any) -> None:
    findings = make_findings(("weak", "hard"))
    own = [it for it in findings.records if it.model == "hard" and it.eps]
    findings.transferred = [
        Transferred(model="hard", source="weak", case=it.case, eps=it.eps, dice=it.dice + 0.02) for it in own
    ]
    assert transfer_check(findings.transferred, own).result == "passed"
    hidden = [replace(it, dice=it.dice - 0.1) for it in findings.transferred]
    found = transfer_check(hidden, own)
    assert (found.result, found.figure) == ("failed", "Dice lower by 0.080 at most, in the mean")
    assert transfer_check([], own).result == "not run"
    text = markdown(audit_report(summarise(findings, replace(SETTINGS, attacks=("pgd",), eps=(1.0, 5.0))), {}))
    assert "## Noise made for another model" in text
