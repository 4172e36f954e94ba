from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from nnunet_ima.evidence.findings import Findings
from nnunet_ima.evidence.records import Failure
from nnunet_ima.report.audit_table import audit_report
from nnunet_ima.report.markdown import markdown
from nnunet_ima.segmentation.settings import Settings
from nnunet_ima.segmentation.summary import summarise

MakeFindings = Callable[..., Findings]


def section(text: str, heading: str) -> str:
    """The part of a report below a heading that begins so."""
    return text.split(f"## {heading}")[1].split("\n## ")[0]


def table(text: str, heading: str) -> list[dict[str, str]]:
    """Rows of the table below a heading."""
    lines = [line for line in section(text, heading).splitlines() if line.startswith("|")]
    titles, _, *rows = ([cell.strip() for cell in line.strip("|").split(" | ")] for line in lines)
    return [dict(zip(titles, row, strict=True)) for row in rows]


@pytest.fixture
def report(settings: Settings) -> Callable[[Findings], str]:
    return lambda findings: markdown(audit_report(summarise(findings, settings), {"seed": "7"}))


def test_headline_says_it_all_first(make_findings: MakeFindings, report: Callable[[Findings], str]) -> None:
    title, weak, hard, conclusion, *_ = report(make_findings()).split("\n\n")
    assert title == "# Robustness audit"
    assert weak == (
        "**weak**: mean Dice 0.880 without noise, 0.380 under the worst noise of ε = 5 (0.5 σ, 25 raw units per "
        "voxel); half of its 3 cases fall below Dice 0.5 at ε ≤ 3.8."
    )
    assert hard == (
        "**hard**: mean Dice 0.880 without noise, 0.780 under the worst noise of ε = 5 (0.5 σ, 25 raw units per "
        "voxel); more than half of its 3 cases stay at Dice 0.5 or above."
    )
    assert conclusion == "Conclusive: all 6 checks of the evidence passed."


def test_surfaces_volumes_and_missed_structures(
    make_findings: MakeFindings, settings: Settings, report: Callable[[Findings], str]
) -> None:
    findings = make_findings(("weak",))
    worst = [record for record in findings.records if record.eps == 5]
    for record, missed in zip(worst, (("core",), (), ("shell", "core")), strict=True):
        findings.records[findings.records.index(record)] = replace(record, missed=missed)
    clean, _, last = table(report(findings), "weak")
    assert (last["NSD (2 mm)"], last["volume error"], last["missed"]) == ("0.380", "25%", "3 of 6")
    assert clean["missed"] == "0 of 6"


@pytest.mark.parametrize(
    ("eps", "words"),
    [
        (0.0, "its only case falls below Dice 0.5 without any noise."),
        (2.0, "its only case falls below Dice 0.5 at ε ≤ 2."),
        (None, "its only case stays at Dice 0.5 or above."),
    ],
)
def test_headline_of_one_case(
    eps: float | None, words: str, make_findings: MakeFindings, report: Callable[[Findings], str]
) -> None:
    findings = make_findings(("weak",), cases=1)
    findings.margins[0] = replace(findings.margins[0], eps=eps)
    assert words in report(findings).split("\n\n")[1]


def test_failed_check_is_told_below_the_headline(
    make_findings: MakeFindings, report: Callable[[Findings], str]
) -> None:
    findings = make_findings(("weak",))
    change = {"result": "failed", "figure": "Dice 0.4", "conclusive": False}
    findings.verdicts[1] = replace(findings.verdicts[1], **change)
    text = report(findings)
    _, _, conclusion, which, *_ = text.split("\n\n")
    assert conclusion.startswith("**NOT CONCLUSIVE.**")
    assert which.splitlines()[0] == "- very large noise breaks the model (weak: Dice 0.4)"
    assert [row["result"] for row in table(text, "Is the evidence sound?")] == ["passed", "**failed**", "passed"]


def test_checks_not_run_prove_nothing(make_findings: MakeFindings, report: Callable[[Findings], str]) -> None:
    findings = make_findings()
    findings.verdicts = [
        replace(row, result="not run", conclusive=False) if row.check == "the model is deterministic" else row
        for row in findings.verdicts
    ]
    text = report(findings)
    assert "NOT CONCLUSIVE" in text
    assert "- the model is deterministic (weak: 0 of 9), not run" in text
    assert [row["result"] for row in table(text, "Is the evidence sound?")].count("**not run**") == 2


def test_failed_case_is_told_and_leaves_the_evidence_incomplete(
    make_findings: MakeFindings, report: Callable[[Findings], str]
) -> None:
    findings = make_findings()
    findings.failed.append(Failure(model="weak", case="case_9", error="damaged:\n  *.nii | header"))
    text = report(findings)
    assert "NOT CONCLUSIVE" in text
    assert "(1 failed)" in text
    (row,) = table(text, "Cases that could not be measured")
    assert row == {"model": "weak", "case": "case_9", "error": "damaged: *.nii \\| header"}
    assert "\\*" not in text  # the footnote on missing distances


def test_table_of_a_model(make_findings: MakeFindings, report: Callable[[Findings], str]) -> None:
    clean, least, most = table(report(make_findings()), "weak")
    assert (clean["ε"], clean["attack"], clean["random noise"], clean["as a file"]) == ("0", "clean", "", "")
    assert (least["ε"], least["σ (RMS)"], least["raw (RMS)"]) == ("1", "0.1", "5")
    assert most["mean Dice [95 %]"].startswith("0.380 [0.36")
    assert most["worst (case)"] == "0.360 (case_2)"
    assert (most["Dice shell"], most["Dice core"]) == ("0.380", "0.380")
    assert (most["random noise"], most["as a file"], most["HD95, mm"]) == ("0.870", "0.384", "6.2")


def test_columns_without_any_value_are_dropped(make_findings: MakeFindings, settings: Settings) -> None:
    findings = make_findings(("weak",), bare=True)
    text = markdown(audit_report(summarise(findings, replace(settings, unit="rms")), {}))
    titles = set(table(text, "weak")[0])
    always = {"attack", "mean Dice [95 %]", "worst (case)", "Dice core", "pooled", "volume error", "missed"}
    assert titles == {"ε", "σ (RMS)", *always}
    assert "None" not in text


def test_what_some_cases_lack_is_marked(make_findings: MakeFindings, report: Callable[[Findings], str]) -> None:
    findings = make_findings(("weak",))
    lacking = [("case_0", 1), *((f"case_{number}", 5) for number in range(3))]
    findings.records = [
        replace(record, hd95_mm=None, stored_dice=None) if (record.case, record.eps) in lacking else record
        for record in findings.records
    ]
    text = report(findings)
    clean, least, most = table(text, "weak")
    assert (clean["HD95, mm"], least["HD95, mm"], most["HD95, mm"]) == ("1.2", "2.3*", "–*")
    assert (least["as a file"], most["as a file"]) == ("0.774 (2 of 3)", "")
    assert "\\* over the cases where every class is predicted at all" in section(text, "weak")


def test_margins_that_lie_above_all_noise_tried(make_findings: MakeFindings, report: Callable[[Findings], str]) -> None:
    weak, hard = table(report(make_findings()), "Robustness margins")
    assert (weak["median ε"], weak["σ (RMS)"], weak["raw (RMS)"], weak["stood all noise"]) == ("3.8", "0.38", "19", "0")
    assert (hard["median ε"], hard["σ (RMS)"], hard["weakest 5 %"], hard["stood all noise"]) == ("> 5", "", "> 5", "3")


def test_two_models_are_compared(make_findings: MakeFindings, report: Callable[[Findings], str]) -> None:
    text = report(make_findings())
    clean, least, most = table(text, "hard against weak")
    assert clean["p (Wilcoxon)"] == ""
    assert least["difference of Dice [95 %]"].startswith("+0.080")
    assert (most["better"], most["worse"], most["cases"], most["p (Wilcoxon)"]) == ("3", "0", "3", "0.25")
    assert "The margins differ by +1.2 in ε" in section(text, "hard against weak")
    assert "3 pairs with a case that stood all noise" in text
    assert "against" not in report(make_findings(("weak",)))


def test_without_noise_nothing_is_claimed(make_findings: MakeFindings, report: Callable[[Findings], str]) -> None:
    findings = make_findings(("weak",))
    records = [record for record in findings.records if record.attack == "clean"]
    text = report(Findings(records))
    assert "mean Dice 0.880 without noise." in text
    assert "nothing is known about robustness" in text


def test_facts_close_the_report(make_findings: MakeFindings, report: Callable[[Findings], str]) -> None:
    assert report(make_findings()).endswith("## What was attacked\n\n- seed: 7")


def test_tables_are_aligned(make_findings: MakeFindings, report: Callable[[Findings], str]) -> None:
    lengths: Any = [
        {len(line) for line in part.splitlines()}
        for part in report(make_findings()).split("\n\n")
        if part.startswith("|")
    ]
    assert len(lengths) == 5
    assert all(len(found) == 1 for found in lengths)
