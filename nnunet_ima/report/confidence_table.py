"""Confidence and calibration in tables and sentences."""

from __future__ import annotations

from typing import Any

from nnunet_ima.evidence.store import level_key
from nnunet_ima.report.document import Block, Column, Row, Section, Table, Text
from nnunet_ima.report.wording import number

UNKNOWN = "not recorded"
TOLD = (
    "Confidence is the largest probability of a voxel, its mean (and that of the entropy) over what is predicted as "
    "foreground and 2 voxels around it: all that is known without a label. The calibration error (15 bins) is over "
    "what is predicted or labelled as foreground and 2 voxels around it, all cases together; overconfidence is the "
    "mean confidence there minus the share of voxels that are right."
)
WARNED = (
    "A prediction has fallen if its Dice is more than 0.1 below that of the same case undisturbed. AUROC: how often a "
    "prediction that has fallen is less confident than one that has not; 0.5 is chance. The threshold lets at most 5 % "
    "of the clean cases lie below it; with few of them it is rough. Where nothing is predicted, confidence counts as 0."
)
COLUMNS: list[Column] = [
    ("model", lambda row: row["model"]),
    ("condition", lambda row: _condition(row)),
    ("predictions", lambda row: _predictions(row)),
    ("mean confidence", lambda row: number(row["confidence"], ".3f") or UNKNOWN),
    ("entropy", lambda row: number(row["entropy"], ".3f") or UNKNOWN),
    ("calibration error", lambda row: number(row["calibration_error"], ".3f") or UNKNOWN),
    ("overconfidence", lambda row: number(row["overconfidence"], "+.3f") or UNKNOWN),
    ("mean Dice", lambda row: f"{row['mean_dice']:.3f}"),
]
WARNINGS: list[Column] = [
    ("model", lambda row: row["model"]),
    ("clean and under", lambda row: row["kind"]),
    ("fallen", lambda row: f"{row['fell']} of {row['predictions']}"),
    ("AUROC", lambda row: number(row["auroc"], ".3f") or "–"),
    ("threshold", lambda row: f"{row['threshold']:.3f}"),
    ("clean cases below it", lambda row: f"{row['false_alarms']:.0%} of {row['clean_cases']}"),
    ("fallen ones below it", lambda row: number(row["detected"], ".0%") or "–"),
]


def confidence_sections(summary: dict[str, Any]) -> list[Section]:
    """How sure the models were, and whether low confidence would have warned."""
    rows = summary.get("confidence", [])  # an earlier release wrote none
    if not any(row["recorded"] for row in rows):
        text = f"Confidence: {UNKNOWN}. These predictions were made by an earlier release; audit into another --output."
        return [Section("Confidence and calibration", (Text(text),), "confidence")] if rows else []
    blocks: list[Block] = [Text(TOLD, "note"), Table.of(rows, COLUMNS)]
    if warnings := summary["confidence_warnings"]:
        blocks += [Text("**Would low confidence have warned?**"), Text(WARNED, "note"), Table.of(warnings, WARNINGS)]
    return [Section("Confidence and calibration", tuple(blocks), "confidence")]


def _condition(row: Row) -> str:
    if row["eps"] is None:
        return f"{row['condition']}, all severities"
    return f"attacked, ε = {level_key(row['eps'])}" if row["eps"] else "clean"


def _predictions(row: Row) -> str:
    some = f" ({row['recorded']} recorded)" if row["recorded"] < row["predictions"] else ""
    return f"{row['predictions']}{some}"
