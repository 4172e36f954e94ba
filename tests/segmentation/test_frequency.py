"""The frequency attack in an audit: measured once, told apart, seeded by nothing."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from nnunet_ima.commands.attack import main
from nnunet_ima.evidence.findings import Findings
from nnunet_ima.evidence.store import Store
from nnunet_ima.inference.cases import Case
from nnunet_ima.inference.pipeline import Pipeline
from nnunet_ima.report.audit_table import audit_report
from nnunet_ima.report.markdown import markdown
from nnunet_ima.segmentation.run import run_audit
from nnunet_ima.segmentation.settings import Settings
from nnunet_ima.segmentation.summary import summarise


def audit(pipeline: Pipeline, cases: list[Case], folder: Path, settings: Settings) -> Findings:
    store = Store(folder, {"settings": settings.question()}, {})
    return run_audit({"m": pipeline}, cases[:1], settings, store, probes=0)


def test_it_goes_through_the_whole_inference_and_is_measured_once(
    pipeline: Pipeline, cases: list[Case], tmp_path: Path, settings: Settings, predicted: list[str]
) -> None:
    wanted = replace(settings, eps=(), unit="rms", margins=False, steps=5, reference_elements=None, vafa=(2.0, 60.0))
    found = audit(pipeline, cases, tmp_path, wanted)
    mild, strong = found.compressed
    assert len(predicted) == 1 + 2  # clean, and each
    assert strong.dice < mild.dice <= mild.clean_dice + 0.02
    assert strong.ssim < mild.ssim <= 1
    assert 0 < mild.mean_change < strong.mean_change < strong.max_change
    assert strong.passes.backward == 5
    assert strong.confidence is not None
    assert audit(pipeline, cases, tmp_path, wanted).compressed == found.compressed
    assert len(predicted) == 3
    text = " ".join(markdown(audit_report(summarise(found, wanted), {})).split())
    assert "## Frequency attack (VAFA)" in text
    assert f"| m | 60 | {strong.dice:.3f} | {strong.clean_dice:.3f} | {strong.dice:.3f} (phantom_000) |" in text
    again = audit(pipeline, cases, tmp_path, replace(wanted, vafa=(60.0,)))
    assert again.compressed == [strong]


def test_a_bound_below_one_grey_level_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main(["--model", str(tmp_path), "--vafa", "0.5", "--output", str(tmp_path / "out")])
    assert stop.value.code == 2
    assert "--vafa must be numbers of at least 1 grey level, got 0.5" in capsys.readouterr().err
