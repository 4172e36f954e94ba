"""The printed result of an audit, as Markdown that a terminal shows well too."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

Row = dict[str, Any]
Column = tuple[str, Callable[[Row], str]]
NOTHING = "–"


def report_text(summary: dict[str, Any], facts: Mapping[str, str]) -> str:
    """Return the report of an audit.

    Args:
        summary: see `audit.summary.summarise`.
        facts: what was attacked and how, one line each.
    """
    models = list(dict.fromkeys(row["model"] for row in summary["rows"]))
    parts = ["# Robustness audit", *(_headline(model, summary) for model in models), _conclusion(summary)]
    for model in models:
        rows = [row for row in summary["rows"] if row["model"] == model]
        parts += [f"## {model}", _table(rows, _columns(rows))]
        if any(row["without_hd95"] for row in rows):
            parts.append("\\* over the cases where every class is predicted at all")
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
    if summary["paired_margins"]:
        parts.append(_margins_compared(summary["paired_margins"]))
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
    """Whether the numbers may be relied on, before anybody reads the tables."""
    failed = [f"{row['check']} ({row['model']}: {row['figure']})" for row in summary["verdicts"] if _is(row, "failed")]
    if summary["failed"]:
        failed.append(f"every case is measured ({len(summary['failed'])} failed)")
    if failed:
        return "\n".join(["**NOT CONCLUSIVE.** What failed:\n", *(f"- {entry}" for entry in failed)])
    if not summary["conclusive"]:
        return "**NOT CONCLUSIVE.** Nothing was measured."
    passed = sum(_is(row, "passed") for row in summary["verdicts"])
    left = list(dict.fromkeys(row["check"] for row in summary["verdicts"] if _is(row, "not run")))
    if not passed:
        return "No noise was tried: nothing is known about robustness."
    if not left:
        return f"Conclusive: all {passed} checks of the evidence passed."
    return f"No check of the evidence failed: {passed} passed. Not run: {'; '.join(left)}."


def _is(row: Row, result: str) -> bool:
    return bool(row["result"] == result)


def _headline(model: str, summary: dict[str, Any]) -> str:
    """The result of a model in one sentence."""
    rows = [row for row in summary["rows"] if row["model"] == model]
    clean, *attacked = sorted(rows, key=lambda row: (row["eps"], row["mean_dice"]))
    sentence = f"**{model}**: mean Dice {clean['mean_dice']:.3f} without noise"
    if attacked:
        worst = min(attacked, key=lambda row: (-row["eps"], row["mean_dice"]))  # of the largest noise
        sentence += f", {worst['mean_dice']:.3f} under the worst noise of {_noise(worst, summary['settings'])}"
    sentence += "".join(f"; {_half(entry)}" for entry in summary["margins"] if entry["model"] == model)
    return sentence + "."


def _half(entry: Row) -> str:
    """When half of the cases have failed."""
    median, fall = entry["quantiles"]["0.5"], f"Dice {entry['threshold']:g}"
    who, verb = ("its only case", "s") if entry["cases"] == 1 else (f"half of its {entry['cases']} cases", "")
    if median is None:
        more = who if entry["cases"] == 1 else f"more than {who}"
        return f"{more} stay{verb} at {fall} or above"
    return f"{who} fall{verb} below {fall} " + (f"at ε ≤ {median:.3g}" if median else "without any noise")


def _margins_compared(entry: Row) -> str:
    """The paired comparison of the margins in a sentence."""
    sentence = (
        f"The margins differ by {entry['mean_difference']:+.3g} in ε{_interval(entry['interval'], '.3g')} in the mean "
        f"of {entry['cases']} cases; {entry['better']} better, {entry['worse']} worse"
    )
    sentence += "" if entry["p"] is None else f", p = {entry['p']:.2g} (Wilcoxon)"
    if entry["censored"]:
        sentence += f"; {entry['censored']} pairs with a case that stood all noise, which counts as the largest ε tried"
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
        ("as a file", _stored),
        ("HD95, mm", _distance),
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


def _stored(row: Row) -> str:
    some = f" ({row['stored_cases']} of {row['cases']})" if 0 < row["stored_cases"] < row["cases"] else ""
    return _number(row["stored_dice"], ".3f") + some


def _distance(row: Row) -> str:
    return (_number(row["hd95_mm"], ".1f") or NOTHING) + ("*" if row["without_hd95"] else "")


def _number(value: float | None, form: str) -> str:
    return "" if value is None else format(value, form)


def _beyond(value: float | None, largest: float) -> str:
    return f"> {largest:g}" if value is None else f"{value:.3g}"


def _interval(interval: Sequence[float] | None, form: str = ".3f") -> str:
    return "" if interval is None else f" [{interval[0]:{form}}, {interval[1]:{form}}]"


def _without_value(columns: Sequence[Column], rows: Sequence[Row]) -> list[Column]:
    return [(title, cell) for title, cell in columns if any(cell(row).strip(NOTHING + "*") for row in rows)]


def _table(rows: Sequence[Row], columns: Sequence[Column]) -> str:
    """A Markdown table whose columns are as wide as their longest cell."""
    cells = [[_safe(title) for title, _ in columns]] + [[_safe(cell(row)) for _, cell in columns] for row in rows]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    lines = [
        "| " + " | ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) + " |" for row in cells
    ]
    lines.insert(1, "|" + "|".join("-" * (width + 2) for width in widths) + "|")
    return "\n".join(lines)


def _safe(cell: str) -> str:
    """Text that neither a line break nor a bar of its own drives out of its cell."""
    return " ".join(cell.split()).replace("|", "\\|")
