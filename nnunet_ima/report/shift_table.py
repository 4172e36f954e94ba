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
NOT_PROVIDED = (
    "not provided. Learn once what the training scans look like, with nnunet-ima-check --learn --model FOLDER, and run "
    "the same command again: nothing is predicted anew."
)
FALLEN = (
    "A prediction under a disturbance has fallen if its Dice is more than 0.1 below that of the clean case. The input "
    "check looks at the scan before it is predicted. Confidence is low below a threshold that at most 5 % of the clean "
    "cases lie below."
)
SILENT: list[Column] = [
    ("model", lambda row: row["model"]),
    ("fallen", lambda row: f"{row['fell']} of {row['predictions']}"),
    ("flagged by the input check", lambda row: number(row["flagged"], "d") or "not provided"),
    ("by low confidence", lambda row: number(row["unsure"], "d") or "not recorded"),
    ("by either", lambda row: str(row["either"])),
    ("in silence", lambda row: f"**{row['silent']}**"),
    ("of these, under", lambda row: _most(row["silent_by_disturbance"])),
]
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
    blocks += _noticed(summary)
    return [Section("Realistic disturbances", tuple(blocks), "shift")]


def _noticed(summary: dict[str, Any]) -> list[Block]:
    """Whether the input check, or low confidence, would have warned."""
    checks, silent = summary.get("input_check", []), summary.get("silent_failures", [])
    if not checks:
        return []  # of an earlier release
    blocks: list[Block] = [Text("**Would anybody have noticed?**")]
    blocks += [Text(_checked(row), "plain" if row["cases"] else "warning") for row in checks]
    for row in checks:
        own = [it for it in summary["shift"] if it["model"] == row["model"] and it["flagged"] is not None]
        if own:
            blocks += [Text(f"**{row['model']}**, share of the scans that the input check flags:"), _flags(own)]
    return [*blocks, Text(FALLEN, "note"), Table.of(silent, without_value(SILENT, silent))]


def _checked(row: Row) -> str:
    if not row["cases"]:
        return f"Input check of {row['model']}: {NOT_PROVIDED}"
    return (
        f"Input check of {row['model']}: {row['false_alarms']} of {row['cases']} untouched scans are flagged "
        f"(threshold {row['threshold']:.1f})."
    )


def _flags(rows: list[Row]) -> Table:
    severities = sorted({row["severity"] for row in rows})
    lines = []
    for name in dict.fromkeys(row["disturbance"] for row in rows):
        own = {row["severity"]: row for row in rows if row["disturbance"] == name}
        lines.append((name, *(f"{own[it]['flagged']:.0%}" if it in own else "" for it in severities)))
    return Table(("disturbance", *(f"severity {severity}" for severity in severities)), tuple(lines))


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


def _most(counts: dict[str, int]) -> str:
    """The disturbances that most failures happen under."""
    return ", ".join(f"{name} ({counts[name]})" for name in sorted(counts, key=lambda name: -counts[name])[:5])


def _compared(row: Row) -> str:
    difference = f"{row['mean_difference']:+.3f}{interval_text(row['interval'])}"
    return (
        f"**{row['model']}** against {row['against']}: mean Dice of a case over all disturbances differs by "
        f"{difference} {case_by_case(row)}."
    )
