"""Realistic disturbances in tables and sentences."""

from __future__ import annotations

from typing import Any

from nnunet_ima.report.document import Block, Column, Row, Section, Table, Text
from nnunet_ima.report.wording import case_by_case, interval_text, number, without_value

TOLD = (
    "The raw images are disturbed before preprocessing, the label map with them where geometry changes. Severities "
    "mean the same for every data set; the number in brackets is the disturbance's own, in its unit."
)
OVERALL = (
    "Means over all disturbances and severities. The corruption error is the sum of 1 - Dice as a share of the first "
    "model's, mean over the disturbances; the relative one is the fall of Dice as a share of the first model's."
)
MODELS: list[Column] = [
    ("model", lambda row: row["model"]),
    ("mean Dice", lambda row: f"{row['mean_dice']:.3f}"),
    ("fall from undisturbed", lambda row: f"{row['fall']:+.3f}"),
    ("mean corruption error", lambda row: number(row["error"], ".2f")),
    ("relative", lambda row: number(row["relative"], ".2f")),
]


def shift_sections(summary: dict[str, Any]) -> list[Section]:
    """Tables of each model, and the comparison of models; none without disturbances."""
    rows = summary["shift"]
    if not rows:
        return []
    models = summary["shift_models"]
    blocks: list[Block] = [Text(OVERALL, "note"), Table.of(models, without_value(MODELS, models))]
    blocks += [Text(_compared(row)) for row in summary["paired_shift"]]
    blocks.append(Text(TOLD, "note"))
    for model in dict.fromkeys(row["model"] for row in rows):
        blocks += [Text(f"**{model}**, mean Dice:"), _of_model([row for row in rows if row["model"] == model])]
    return [Section("Realistic disturbances", tuple(blocks), "shift")]


def _of_model(rows: list[Row]) -> Table:
    severities = sorted({row["severity"] for row in rows})
    head = ("disturbance", "unit", *(f"severity {severity}" for severity in severities), "lowest case")
    lines = []
    for name in dict.fromkeys(row["disturbance"] for row in rows):
        own = {row["severity"]: row for row in rows if row["disturbance"] == name}
        worst = min(own.values(), key=lambda row: row["worst_dice"])
        cells = [f"{own[it]['mean_dice']:.3f} ({own[it]['level']:g})" if it in own else "" for it in severities]
        first = next(iter(own.values()))
        lines.append((name, first["unit"], *cells, f"{worst['worst_dice']:.3f} ({worst['worst_case']})"))
    return Table(head, tuple(lines))


def _compared(row: Row) -> str:
    difference = f"{row['mean_difference']:+.3f}{interval_text(row['interval'])}"
    return (
        f"**{row['model']}** against {row['against']}: mean Dice of a case over all disturbances differs by "
        f"{difference} {case_by_case(row)}."
    )
