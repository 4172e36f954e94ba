"""The result of an audit in tables and sentences."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from nnunet_ima.evidence.store import level_key
from nnunet_ima.report.confidence_table import confidence_sections
from nnunet_ima.report.document import Block, Bullets, Column, Document, Row, Section, Table, Text
from nnunet_ima.report.shift_table import shift_sections
from nnunet_ima.report.wording import NOTHING, VERDICT, case_by_case, conclusion, interval_text, number, without_value
from nnunet_ima.report.worst_shift_table import worst_shift_sections


def audit_report(summary: dict[str, Any], facts: Mapping[str, str]) -> Document:
    """Return the report of an audit.

    Args:
        summary: see `segmentation.summary.summarise`.
        facts: what was attacked and how, one line each.
    """
    lead = (*headlines(summary), conclusion(summary))
    attacked = Section("What was attacked", (Bullets(tuple(f"{name}: {value}" for name, value in facts.items())),))
    sections = [*results(summary), *soundness(summary), *refused(summary), attacked]
    return Document("Robustness audit", lead, tuple(sections))


def headlines(summary: dict[str, Any]) -> list[Text]:
    """The result of each model in a sentence."""
    return [Text(_headline(model, summary)) for model in _models(summary)]


def results(summary: dict[str, Any]) -> list[Section]:
    """Tables of each model, margins, and the comparison of each further model with the first one."""
    models, sections = _models(summary), []
    for model in models:
        rows = [row for row in summary["rows"] if row["model"] == model]
        blocks: list[Block] = [Table.of(rows, _columns(rows, summary["settings"]["tolerance"]))]
        if any(row["without_hd95"] for row in rows):
            blocks.append(Text("* over the cases where every class is predicted at all", "note"))
        sections.append(Section(model, tuple(blocks)))
    if summary["margins"]:
        threshold = summary["margins"][0]["threshold"]
        title = f"Robustness margins: the smallest ε at which Dice falls below {threshold:g}"
        sections.append(Section(title, (Table.of(summary["margins"], _margin_columns(summary["margins"])),)))
    sections += confidence_sections(summary)
    sections += shift_sections(summary)
    sections += worst_shift_sections(summary)
    sections += _frequency(summary)
    sections += _certified(summary)
    sections += _transferred(summary)
    for model in models[1:]:
        rows = [row for row in summary["paired"] if row["model"] == model]
        margins = [Text(_margins_compared(row)) for row in summary["paired_margins"] if row["model"] == model]
        certified = [Text(_certificates_compared(it)) for it in summary["paired_certificates"] if it["model"] == model]
        if rows or margins or certified:
            title = f"{model} against {models[0]}, case by case"
            sections.append(Section(title, (*([Table.of(rows, PAIRED)] if rows else []), *margins, *certified)))
    return sections


def _transferred(summary: dict[str, Any]) -> list[Section]:
    """Models under noise that was made for others."""
    rows = summary["transfer"]
    told = Text(
        "The worst noise found for one model, added for another one: what an attacker does who has a similar model."
    )
    return [Section("Noise made for another model", (told, Table.of(rows, TRANSFERRED)))] if rows else []


def _frequency(summary: dict[str, Any]) -> list[Section]:
    """Models under the frequency attack, apart from all that an ε bounds."""
    rows = summary.get("frequency", [])  # an earlier release wrote none
    title = "Frequency attack (VAFA): compression made for the model"
    return [Section(title, (Text(COMPRESSION, "note"), Table.of(rows, FREQUENCY)), "frequency")] if rows else []


def _certified(summary: dict[str, Any]) -> list[Section]:
    """What is certified, and of what."""
    rows = summary["certificates"]
    table = Table.of(rows, without_value(CERTIFIED, rows))
    return [Section("Certified against any noise of a size", (Text(SMOOTHED, "note"), table))] if rows else []


def soundness(summary: dict[str, Any]) -> list[Section]:
    """The checks of the evidence."""
    rows = summary["verdicts"]
    return [Section("Is the evidence sound?", (Table.of(rows, without_value(VERDICT, rows)),))] if rows else []


def refused(summary: dict[str, Any]) -> list[Section]:
    """Cases that could not be measured."""
    rows = summary["failed"]
    return [Section("Cases that could not be measured", (Table.of(rows, FAILED_CASES),))] if rows else []


def _models(summary: dict[str, Any]) -> list[str]:
    return list(dict.fromkeys(row["model"] for row in summary["rows"]))


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


def _certificates_compared(entry: Row) -> str:
    """The paired comparison of what is certified in a sentence."""
    difference = f"{entry['mean_difference']:+.3f}{interval_text(entry['interval'])}"
    return f"The certified Dice at σ = {entry['sigma']:g} differs by {difference} {case_by_case(entry)}."


def _margins_compared(entry: Row) -> str:
    """The paired comparison of the margins in a sentence."""
    difference = f"{entry['mean_difference']:+.3g} in ε{interval_text(entry['interval'], '.3g')}"
    sentence = f"The margins differ by {difference} {case_by_case(entry)}"
    if entry["censored"]:
        sentence += f"; {entry['censored']} pairs with a case that stood all noise, which counts as the largest ε tried"
    return sentence + "."


def _noise(row: Row, settings: Mapping[str, Any]) -> str:
    """A noise level in words, with what it means per voxel."""
    rms, raw = row["units"]["rms"], row["units"]["raw"]
    told = [f"{rms:.3g} σ"] if settings["unit"] != "rms" and rms is not None else []
    told += [f"{raw:.3g} raw units"] if settings["unit"] != "raw" and raw is not None else []
    level = f"ε = {level_key(row['eps'])}" + (" σ" if settings["unit"] == "rms" else "")
    return level + (f" ({', '.join(told)} per voxel)" if told else "")


def _columns(rows: Sequence[Row], tolerance: float) -> list[Column]:
    """Columns of a model's table; those without any value are left out."""
    columns: list[Column] = [
        ("ε", lambda row: level_key(row["eps"])),
        ("σ (RMS)", lambda row: number(row["units"]["rms"], ".3g")),
        ("raw (RMS)", lambda row: number(row["units"]["raw"], ".3g")),
        ("attack", lambda row: row["attack"]),
        ("mean Dice [95 %]", lambda row: f"{row['mean_dice']:.3f}{interval_text(row['interval'])}"),
        ("worst (case)", lambda row: f"{row['worst_dice']:.3f} ({row['worst_case']})"),
    ]
    for name in rows[0]["dice_per_class"]:
        columns.append((f"Dice {name}", lambda row, name=name: number(row["dice_per_class"][name], ".3f")))  # type: ignore[misc]
    columns += [
        ("pooled", lambda row: number(row["pooled_dice"], ".3f")),
        ("random noise", lambda row: number(row["random_dice"], ".3f")),
        ("as a file", _stored),
        ("HD95, mm", _distance),
        (f"NSD ({tolerance:g} mm)", lambda row: number(row["nsd"], ".3f")),
        ("volume error", lambda row: number(row["volume_error"], ".0%")),
        ("missed", lambda row: f"{row['missed']} of {row['structures']}"),
    ]
    return without_value(columns, rows)


def _margin_columns(rows: Sequence[Row]) -> list[Column]:
    def quantile(share: str) -> Callable[[Row], str]:
        return lambda row: _beyond(row["quantiles"][share], row["largest_tried"])

    columns: list[Column] = [
        ("model", lambda row: row["model"]),
        ("cases", lambda row: str(row["cases"])),
        ("median ε", quantile("0.5")),
        ("σ (RMS)", lambda row: number(row["median_units"]["rms"], ".3g")),
        ("raw (RMS)", lambda row: number(row["median_units"]["raw"], ".3g")),
        ("weakest 5 %", quantile("0.05")),
        ("strongest 5 %", quantile("0.95")),
        ("below it without noise", lambda row: str(row["failed_without_noise"])),
        ("stood all noise", lambda row: str(row["stood_all"])),
    ]
    return without_value(columns, rows)


PAIRED: list[Column] = [
    ("ε", lambda row: level_key(row["eps"])),
    ("attack", lambda row: row["attack"]),
    ("difference of Dice [95 %]", lambda row: f"{row['mean_difference']:+.3f}{interval_text(row['interval'])}"),
    ("better", lambda row: str(row["better"])),
    ("worse", lambda row: str(row["worse"])),
    ("cases", lambda row: str(row["cases"])),
    ("p (Wilcoxon)", lambda row: number(row["p"], ".2g")),
]
SMOOTHED = (
    "This is about the smoothed model: the majority of many predictions under random noise of σ per voxel, which takes "
    "as many passes. Its Dice stays within these bounds under any noise of at most the radius (L2), whoever makes it, "
    "with a probability of 99.9 % for each case. Voxels without a clear majority count as wrong, or as right."
)
CERTIFIED: list[Column] = [
    ("model", lambda row: row["model"]),
    ("σ of the smoothing", lambda row: f"{row['sigma']:g}"),
    ("radius, ε of the paper", lambda row: number(row["units"]["paper"], ".3g")),
    ("radius, L2", lambda row: f"{row['radius']:.3g}"),
    ("σ (RMS)", lambda row: number(row["units"]["rms"], ".2g")),
    ("raw (RMS)", lambda row: number(row["units"]["raw"], ".2g")),
    ("certified Dice, at least [95 %]", lambda row: f"{row['mean_dice']:.3f}{interval_text(row['interval'])}"),
    ("at most", lambda row: f"{row['mean_dice_at_most']:.3f}"),
    ("worst case, at least", lambda row: f"{row['worst_dice']:.3f}"),
    ("smoothed, no further noise", lambda row: f"{row['smoothed_dice']:.3f}"),
    ("voxels not certified", lambda row: f"{row['abstained']:.2%}"),
]
COMPRESSION = (
    "Cosine transforms of blocks of 8×8×8 voxels are rounded to multiples of tables that are learnt for each case, "
    "with entries up to the bound, in 256ths of the range of grey values. No ε bounds the change: do not set these "
    "numbers beside those at an ε."
)
FREQUENCY: list[Column] = [
    ("model", lambda row: row["model"]),
    ("bound of the tables", lambda row: f"{row['q_max']:g}"),
    ("mean Dice [95 %]", lambda row: f"{row['mean_dice']:.3f}{interval_text(row['interval'])}"),
    ("without it", lambda row: f"{row['clean_dice']:.3f}"),
    ("worst (case)", lambda row: f"{row['worst_dice']:.3f} ({row['worst_case']})"),
    ("SSIM", lambda row: f"{row['ssim']:.3f}"),
    ("mean change, σ", lambda row: f"{row['mean_change']:.3g}"),
    ("largest change, σ", lambda row: f"{row['max_change']:.3g}"),
    ("cases", lambda row: str(row["cases"])),
]
TRANSFERRED: list[Column] = [
    ("noise made for", lambda row: row["source"]),
    ("added for", lambda row: row["model"]),
    ("ε", lambda row: level_key(row["eps"])),
    ("mean Dice", lambda row: f"{row['mean_dice']:.3f}"),
    ("cases", lambda row: str(row["cases"])),
]
FAILED_CASES: list[Column] = [
    ("model", lambda row: row["model"]),
    ("case", lambda row: row["case"]),
    ("error", lambda row: row["error"]),
]


def _stored(row: Row) -> str:
    some = f" ({row['stored_cases']} of {row['cases']})" if 0 < row["stored_cases"] < row["cases"] else ""
    return number(row["stored_dice"], ".3f") + some


def _distance(row: Row) -> str:
    return (number(row["hd95_mm"], ".1f") or NOTHING) + ("*" if row["without_hd95"] else "")


def _beyond(value: float | None, largest: float) -> str:
    return f"> {largest:g}" if value is None else f"{value:.3g}"
