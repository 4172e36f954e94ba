"""The worst realistic changes in tables and sentences."""

from __future__ import annotations

from typing import Any

from nnunet_ima.report.document import Block, Column, Row, Section, Table, Text
from nnunet_ima.report.wording import case_by_case, interval_text

TOLD = (
    "All changes of a scan together, each within the box of its severity, searched by gradient through the whole "
    "inference, preprocessing included; chance had as many passes in the same boxes. Every Dice is that of nnU-Net's "
    "own prediction of the changed scan, written and read as any other; where geometry changes, the label moves with "
    "it. Beside each case stands what was done to its scan."
)
LISTED = 1000  # cases that the table holds at most, the worst ones
MODELS: list[Column] = [
    ("model", lambda row: row["model"]),
    ("severity", lambda row: str(row["severity"])),
    ("cases", lambda row: str(row["cases"])),
    ("mean Dice unchanged", lambda row: f"{row['clean_dice']:.3f}"),
    ("worst of chance", lambda row: f"{row['random_dice']:.3f}"),
    ("worst found [95 %]", lambda row: f"{row['mean_dice']:.3f}{interval_text(row['interval'])}"),
    ("lowest case", lambda row: f"{row['worst_dice']:.3f} ({row['worst_case']})"),
    ("passes", lambda row: f"{row['passes']:.0f}"),
]
CASES: list[Column] = [
    ("case", lambda row: row["case"]),
    ("unchanged", lambda row: f"{row['clean_dice']:.3f}"),
    ("chance", lambda row: f"{row['random_dice']:.3f}"),
    ("worst", lambda row: f"{row['dice']:.3f}"),
    ("what was changed", lambda row: "; ".join(row["told"].values())),
]


def worst_shift_sections(summary: dict[str, Any]) -> list[Section]:
    """Means of each model, and each case with its parameters; none where no worst change was searched."""
    rows = summary["worst_shift"]
    if not rows:
        return []
    blocks: list[Block] = [Text(TOLD, "note"), Table.of(rows, MODELS)]
    blocks += [Text(_compared(row)) for row in summary["paired_worst_shift"]]
    for row in rows:
        blocks += [Text(f"**{row['model']}**, severity {row['severity']}:"), Table.of(row["found"][:LISTED], CASES)]
        if len(row["found"]) > LISTED:
            told = f"The worst {LISTED} of {len(row['found'])} cases; summary.json holds all."
            blocks.append(Text(told, "note"))
    return [Section("The worst realistic change", tuple(blocks), "worst-shift")]


def _compared(row: Row) -> str:
    difference = f"{row['mean_difference']:+.3f}{interval_text(row['interval'])}"
    return (
        f"**{row['model']}** against {row['against']}: Dice under the worst change that was found for each differs by "
        f"{difference} {case_by_case(row)}."
    )
