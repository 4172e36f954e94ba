"""Tables and sentences that all reports share, as Markdown that a terminal shows well too."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

Row = dict[str, Any]
Column = tuple[str, Callable[[Row], str]]
NOTHING = "–"
VERDICT: list[Column] = [
    ("model", lambda row: row["model"]),
    ("check", lambda row: row["check"]),
    ("result", lambda row: row["result"] if _is(row, "passed") else f"**{row['result']}**"),
    ("figure", lambda row: row["figure"]),
]


def table(rows: Sequence[Row], columns: Sequence[Column]) -> str:
    """Return a Markdown table whose columns are as wide as their longest cell."""
    cells = [[_safe(title) for title, _ in columns]] + [[_safe(cell(row)) for _, cell in columns] for row in rows]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    lines = [
        "| " + " | ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) + " |" for row in cells
    ]
    lines.insert(1, "|" + "|".join("-" * (width + 2) for width in widths) + "|")
    return "\n".join(lines)


def without_value(columns: Sequence[Column], rows: Sequence[Row]) -> list[Column]:
    """Return the columns that have a value in any row."""
    return [(title, cell) for title, cell in columns if any(cell(row).strip(NOTHING + "*") for row in rows)]


def number(value: float | None, form: str) -> str:
    """Return a number in a format; nothing for None."""
    return "" if value is None else format(value, form)


def interval_text(interval: Sequence[float] | None, form: str = ".3f") -> str:
    """Return the ends of an interval, to be put behind its number; nothing for None."""
    return "" if interval is None else f" [{interval[0]:{form}}, {interval[1]:{form}}]"


def conclusion(summary: dict[str, Any]) -> str:
    """Say whether the numbers may be relied on, before anybody reads the tables.

    `summary` holds "verdicts" (`evidence.verdict.as_rows`), "failed" (cases not measured) and "conclusive".
    """
    if summary["conclusive"]:
        return f"Conclusive: all {len(summary['verdicts'])} checks of the evidence passed."
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
    return "\n".join(["**NOT CONCLUSIVE.** What failed, or was not looked at:\n", *(f"- {it}" for it in missing)])


def _safe(cell: str) -> str:
    """Text that neither a line break nor a bar of its own drives out of its cell."""
    return " ".join(cell.split()).replace("|", "\\|")


def _is(row: Row, result: str) -> bool:
    return bool(row["result"] == result)
