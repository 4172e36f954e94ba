"""The printed result of an audit, as Markdown that a terminal shows well too."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

Row = dict[str, Any]
Column = tuple[str, Callable[[Row], str]]


def report_text(summary: dict[str, Any], facts: Mapping[str, str]) -> str:
    """Return the report of an audit.

    Args:
        summary: see `audit.summary.summarise`.
        facts: what was attacked and how, one line each.
    """
    models = list(dict.fromkeys(row["model"] for row in summary["rows"]))
    parts = ["# Robustness audit", _conclusion(summary), *(_headline(model, summary) for model in models)]
    for model in models:
        rows = [row for row in summary["rows"] if row["model"] == model]
        parts += [f"## {model}", _table(rows, _columns(rows))]
    if summary["margins"]:
        threshold = summary["margins"][0]["threshold"]
        parts += [
            f"## Robustness margins: the smallest ε at which Dice falls below {threshold:g}",
            _table(summary["margins"], _margin_columns(summary["margins"])),
        ]
    if summary["paired"]:
        parts += [
            f"## {models[1]} against {models[0]}, case by case",
            _table(summary["paired"], PAIRED),
        ]
    if summary["verdicts"]:
        parts += [
            "## Is the evidence sound?",
            _table(summary["verdicts"], _without_value(VERDICT, summary["verdicts"])),
        ]
    if summary["failed"]:
        parts += ["## Cases that could not be measured", _table(summary["failed"], FAILED_CASES)]
    parts += ["## What was attacked", "\n".join(f"- {name}: {value}" for name, value in facts.items())]
    return "\n\n".join(parts)


def _conclusion(summary: dict[str, Any]) -> str:
    """Whether the numbers may be relied on, before anybody reads them."""
    failed = [f"{row['check']} ({row['model']}: {row['figure']})" for row in summary["verdicts"] if _is(row, "failed")]
    if summary["failed"]:
        failed.append(f"every case is measured ({len(summary['failed'])} failed)")
    if failed:
        return "\n".join(["**NOT CONCLUSIVE.** What failed:\n", *(f"- {entry}" for entry in failed)])
    if not summary["conclusive"]:
        return "**NOT CONCLUSIVE.** Nothing was measured."
    passed, left = (sum(_is(row, result) for row in summary["verdicts"]) for result in ("passed", "not run"))
    if not passed:
        return "No noise was tried: nothing is known about robustness."
    return f"Conclusive: {passed} checks of the evidence passed, {left} were not run."


def _is(row: Row, result: str) -> bool:
    return bool(row["result"] == result)


def _headline(model: str, summary: dict[str, Any]) -> str:
    """The result of a model in one sentence."""
    rows = [row for row in summary["rows"] if row["model"] == model]
    clean, *attacked = sorted(rows, key=lambda row: (row["eps"], row["mean_dice"]))
    said = [f"mean Dice {clean['mean_dice']:.3f} without noise"]
    for eps in dict.fromkeys(row["eps"] for row in attacked):
        worst = min((row for row in attacked if row["eps"] == eps), key=lambda row: row["mean_dice"])
        said.append(f"{worst['mean_dice']:.3f} at {_noise(worst, summary['settings'])}")
    sentence = f"**{model}**: " + ", ".join(said)
    for entry in summary["margins"]:
        if entry["model"] == model:
            median, threshold = entry["quantiles"]["0.5"], entry["threshold"]
            if median is None:
                sentence += f"; more than half of the {entry['cases']} cases stay at Dice {threshold:g} or above"
            else:
                sentence += f"; half of the {entry['cases']} cases fall below Dice {threshold:g} at ε ≤ {median:.3g}"
    return sentence + "."


def _noise(row: Row, settings: Mapping[str, Any]) -> str:
    """A noise level in words, with what it means per voxel."""
    rms, raw = row["units"]["rms"], row["units"]["raw"]
    told = [f"{rms:.3g} σ"] if settings["unit"] != "rms" and rms is not None else []
    told += [f"{raw:.3g} raw units"] if settings["unit"] != "raw" and raw is not None else []
    level = f"ε = {row['eps']:g}" + (" σ" if settings["unit"] == "rms" else "")
    return level + (f" ({', '.join(told)} per voxel)" if told else "")


def _columns(rows: Sequence[Row]) -> list[Column]:
    """Columns of a model's table; those without any value are left out."""
    columns: list[Column] = [
        ("ε", lambda row: f"{row['eps']:g}"),
        ("σ (RMS)", lambda row: _number(row["units"]["rms"], ".3g")),
        ("raw (RMS)", lambda row: _number(row["units"]["raw"], ".3g")),
        ("attack", lambda row: row["attack"]),
        ("mean Dice [95 %]", lambda row: f"{row['mean_dice']:.3f}{_interval(row['interval'])}"),
        ("worst (case)", lambda row: f"{row['worst_dice']:.3f} ({row['worst_case']})"),
    ]
    for name in rows[0]["dice_per_class"]:
        columns.append((f"Dice {name}", lambda row, name=name: _number(row["dice_per_class"][name], ".3f")))  # type: ignore[misc]
    columns += [
        ("pooled", lambda row: _number(row["pooled_dice"], ".3f")),
        ("random noise", lambda row: _number(row["random_dice"], ".3f")),
        ("as a file", lambda row: _number(row["stored_dice"], ".3f")),
        ("HD95, mm", lambda row: _number(row["hd95_mm"], ".1f") + ("*" if row["without_hd95"] else "")),
    ]
    return _without_value(columns, rows)


def _margin_columns(rows: Sequence[Row]) -> list[Column]:
    def quantile(share: str) -> Callable[[Row], str]:
        return lambda row: _beyond(row["quantiles"][share], row["largest_tried"])

    columns: list[Column] = [
        ("model", lambda row: row["model"]),
        ("cases", lambda row: str(row["cases"])),
        ("median ε", quantile("0.5")),
        ("σ (RMS)", lambda row: _number(row["median_units"]["rms"], ".3g")),
        ("raw (RMS)", lambda row: _number(row["median_units"]["raw"], ".3g")),
        ("weakest 5 %", quantile("0.05")),
        ("strongest 5 %", quantile("0.95")),
        ("below it without noise", lambda row: str(row["failed_without_noise"])),
        ("stood all noise", lambda row: str(row["stood_all"])),
    ]
    return _without_value(columns, rows)


PAIRED: list[Column] = [
    ("ε", lambda row: f"{row['eps']:g}"),
    ("attack", lambda row: row["attack"]),
    ("difference of Dice [95 %]", lambda row: f"{row['mean_difference']:+.3f}{_interval(row['interval'])}"),
    ("better", lambda row: str(row["better"])),
    ("worse", lambda row: str(row["worse"])),
    ("cases", lambda row: str(row["cases"])),
    ("p (Wilcoxon)", lambda row: _number(row["p"], ".2g")),
]
VERDICT: list[Column] = [
    ("model", lambda row: row["model"]),
    ("check", lambda row: row["check"]),
    ("result", lambda row: f"**{row['result']}**" if _is(row, "failed") else row["result"]),
    ("figure", lambda row: row["figure"]),
]
FAILED_CASES: list[Column] = [
    ("model", lambda row: row["model"]),
    ("case", lambda row: row["case"]),
    ("error", lambda row: row["error"]),
]


def _number(value: float | None, form: str) -> str:
    return "" if value is None else format(value, form)


def _beyond(value: float | None, largest: float) -> str:
    return f"> {largest:g}" if value is None else f"{value:.3g}"


def _interval(interval: Sequence[float] | None) -> str:
    return "" if interval is None else f" [{interval[0]:.3f}, {interval[1]:.3f}]"


def _without_value(columns: Sequence[Column], rows: Sequence[Row]) -> list[Column]:
    return [(title, cell) for title, cell in columns if any(cell(row).strip("*") for row in rows)]


def _table(rows: Sequence[Row], columns: Sequence[Column]) -> str:
    """A Markdown table whose columns are as wide as their longest cell."""
    cells = [[title for title, _ in columns]] + [[cell(row).replace("|", "\\|") for _, cell in columns] for row in rows]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    lines = [
        "| " + " | ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) + " |" for row in cells
    ]
    lines.insert(1, "|" + "|".join("-" * (width + 2) for width in widths) + "|")
    if any("*" in cell and "**" not in cell for row in cells[1:] for cell in row):
        lines.append("\n\\* over the cases where every class is predicted at all")
    return "\n".join(lines)
