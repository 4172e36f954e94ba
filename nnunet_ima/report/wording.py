"""Words and numbers that all reports share."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from nnunet_ima.report.document import Block, Bullets, Column, Row, Text

NOTHING = "–"
VERDICT: list[Column] = [
    ("model", lambda row: row["model"]),
    ("check", lambda row: row["check"]),
    ("result", lambda row: row["result"] if _is(row, "passed") else f"**{row['result']}**"),
    ("figure", lambda row: row["figure"]),
]


def without_value(columns: Sequence[Column], rows: Sequence[Row]) -> list[Column]:
    """Return the columns that have a value in any row."""
    return [(title, cell) for title, cell in columns if any(cell(row).strip(NOTHING + "*") for row in rows)]


def number(value: float | None, form: str) -> str:
    """Return a number in a format; nothing for None."""
    return "" if value is None else format(value, form)


def interval_text(interval: Sequence[float] | None, form: str = ".3f") -> str:
    """Return the ends of an interval, to be put behind its number; nothing for None."""
    return "" if interval is None else f" [{interval[0]:{form}}, {interval[1]:{form}}]"


def case_by_case(entry: Row) -> str:
    """On how many cases one model is better than another, and worse, with the p of their comparison."""
    p = "" if entry["p"] is None else f", p = {entry['p']:.2g} (Wilcoxon)"
    return f"in the mean of {entry['cases']} cases; {entry['better']} better, {entry['worse']} worse{p}"


def conclusion(summary: dict[str, Any]) -> Block:
    """Say whether the numbers may be relied on, before anybody reads the tables.

    `summary` holds "verdicts" (`evidence.verdict.as_rows`), "failed" (cases not measured) and "conclusive".
    """
    if summary["conclusive"]:
        return Text(f"Conclusive: all {len(summary['verdicts'])} checks of the evidence passed.")
    missing = [
        f"{row['check']} ({row['model']}: {row['figure']})" + (", not run" if _is(row, "not run") else "")
        for result in ("failed", "not run")
        for row in summary["verdicts"]
        if _is(row, result)
    ]
    if summary["failed"]:
        missing.append(f"every case is measured ({len(summary['failed'])} failed)")
    if all(_is(row, "not run") for row in summary["verdicts"]):
        missing.insert(0, "any noise at all: nothing is known about robustness")
    return Bullets(tuple(missing), "**NOT CONCLUSIVE.** What failed, or was not looked at:")


def worst_rows(summary: dict[str, Any], model: str) -> dict[float, Row]:
    """The row of a model's lowest mean Dice at each ε, by rising ε; "worst of all" takes each case's worst attack."""
    worst: dict[float, Row] = {}
    for row in summary["rows"]:
        if row["model"] == model and (row["eps"] not in worst or row["mean_dice"] < worst[row["eps"]]["mean_dice"]):
            worst[row["eps"]] = row
    return dict(sorted(worst.items()))


def _is(row: Row, result: str) -> bool:
    return bool(row["result"] == result)
