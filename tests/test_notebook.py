"""Audits from a notebook."""

from __future__ import annotations

import doctest
import json
import math
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

import nnunet_ima
from nnunet_ima import notebook
from nnunet_ima.evidence.findings import Findings
from nnunet_ima.segmentation.settings import Settings
from nnunet_ima.segmentation.summary import summarise, write_summary


@pytest.fixture
def own(phantom, trained_model: Path, tmp_path: Path) -> dict[str, Path]:
    """A model's folder of a short name, and a case of one's own."""
    for folder, source in (("images", "imagesTr"), ("labels", "labelsTr")):
        (tmp_path / folder).mkdir()
        shutil.copy(min((phantom.raw / source).glob("*.nii.gz")), tmp_path / folder)
    shutil.copytree(trained_model, tmp_path / "stock")
    return {"model": tmp_path / "stock", "images": tmp_path / "images", "labels": tmp_path / "labels"}


def test_the_docstring_is_true(own: dict[str, Path], tmp_path: Path) -> None:
    names = {**own, "output": tmp_path / "out"}
    (example,) = doctest.DocTestFinder(recurse=False).find(notebook.audit, "audit", extraglobs=names)
    found = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS).run(example, out=sys.stderr.write)
    assert found.failed == 0 < found.attempted


def test_importing_the_package_stays_cheap() -> None:
    code = "import sys, nnunet_ima; print(sorted({'torch', 'pandas', 'numpy'} & set(sys.modules)), dir(nnunet_ima))"
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert told.startswith("[] ")
    assert "'audit'" in told
    assert "'load_audit'" in told


def test_unknown_attributes_and_options_are_named(tmp_path: Path) -> None:
    with pytest.raises(AttributeError, match="'nnunet_ima' has no attribute 'audits'"):
        nnunet_ima.audits  # noqa: B018
    with pytest.raises(TypeError, match=r"unknown option dry_run, stepz; known are .*eps_unit.*limit"):
        nnunet_ima.audit(tmp_path, stepz=3, dry_run=True)
    with pytest.raises(FileNotFoundError, match=r"summary.json is missing: no audit has ended there; run the audit's"):
        nnunet_ima.load_audit(tmp_path)


@pytest.fixture
def written(make_findings: Callable[..., Findings], settings: Settings, tmp_path: Path) -> Path:
    findings = make_findings()
    write_summary(summarise(findings, settings), findings.records, tmp_path)
    (tmp_path / "dice.png").write_bytes(b"a picture")
    return tmp_path


def test_frames_hold_what_was_found(written: Path) -> None:
    found = nnunet_ima.load_audit(str(written))
    assert found.conclusive
    assert len(found.rows) == 2 * 3  # models, levels
    assert len(found.cases) == 2 * 3 * 3
    at_five = found.rows.set_index(["model", "eps"]).mean_dice
    assert at_five["weak", 5.0] == pytest.approx(0.38)
    margins = found.margins.set_index(["model", "case"]).eps
    assert margins["weak", "case_0"] == pytest.approx(4.0)
    assert math.isnan(margins["hard", "case_0"])
    assert set(found.verdicts.result) == {"passed"}
    assert found.failed.empty
    assert found.figures["dice"]._repr_png_() == b"a picture"
    assert "Conclusive." in found._repr_html_()


def test_names_that_look_like_numbers_stay_text(make_findings: Callable[..., Findings], settings, tmp_path) -> None:
    findings = make_findings(("weak",))
    findings.records = [replace(it, model="1e3", case=it.case.replace("case_", "00")) for it in findings.records]
    write_summary(summarise(findings, settings), findings.records, tmp_path)
    found = nnunet_ima.load_audit(tmp_path)
    assert set(found.cases.case) == {"000", "001", "002"}
    assert set(found.rows.model) == {"1e3"}


@pytest.mark.parametrize("damage", ["{}", "[]", '{"conclusive": true, "verdicts": [], "failed": [], "margins": [1]}'])
def test_a_damaged_summary_is_named(written: Path, damage: str) -> None:
    (written / "summary.json").write_text(damage)
    with pytest.raises(ValueError, match=r"summary.json is no summary of this release .*; run the audit's command"):
        nnunet_ima.load_audit(written)


def test_names_stay_text(tmp_path: Path) -> None:
    file = tmp_path / "cases.csv"
    file.write_text("case,dice\nNA,0.5\n007,\nNone,1\n")
    table = notebook._table(file, "")
    assert table["case"].tolist() == ["NA", "007", "None"]
    assert table["dice"].isna().tolist() == [False, True, False]


def test_damaged_tables_are_named(written: Path) -> None:
    (written / "cases.csv").write_bytes(b"")
    with pytest.raises(ValueError, match=r"cases.csv is damaged"):
        nnunet_ima.load_audit(written)
    (written / "cases.csv").unlink()
    with pytest.raises(FileNotFoundError, match=r"cases.csv does not exist; run the audit's"):
        nnunet_ima.load_audit(written)


def test_audits_of_classifiers_are_read_too(written: Path) -> None:
    summary = json.loads((written / "summary.json").read_text())
    del summary["margins"]  # they have none
    (written / "summary.json").write_text(json.dumps(summary))
    assert nnunet_ima.load_audit(written).margins.empty
