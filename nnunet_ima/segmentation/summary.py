"""What an audit's results say over all cases: means with intervals, margins, and the comparison of two models."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import chain
from pathlib import Path
from statistics import fmean, median
from typing import Any

from nnunet_ima.evidence.findings import Findings
from nnunet_ima.evidence.quantiles import QUANTILES, censored_quantile
from nnunet_ima.evidence.records import Certificate, Margin, Result
from nnunet_ima.evidence.schema import to_json
from nnunet_ima.files import csv_text, write_atomically, write_csv
from nnunet_ima.segmentation.confidence import calibration_error
from nnunet_ima.segmentation.confidence_summary import confidence_rows, confidence_warnings
from nnunet_ima.segmentation.frequency import frequency_rows
from nnunet_ima.segmentation.input_check import false_alarms, silent_failures
from nnunet_ima.segmentation.result_rows import Group, Key, grouped, mean, worst_of_all
from nnunet_ima.segmentation.settings import Settings
from nnunet_ima.segmentation.shift_summary import shift_models, shift_paired, shift_rows
from nnunet_ima.segmentation.statistics import compared, interval
from nnunet_ima.segmentation.transfer import transfer_rows
from nnunet_ima.segmentation.worst_shift_summary import worst_shift_paired, worst_shift_rows

OF_NOISE = ("noise", "worst_component")
PER_CASE = (
    *("model", "case", "attack", "eps", "units", "dice", "dice_per_class", "clean_dice", "random_dice", "stored_dice"),
    *("hd95_mm", "nsd", "volume_error", "missed"),
    *OF_NOISE,
)
OF_SETTINGS = ("unit", "norm", "steps", "seed", "threshold", "tolerance", "reference_elements")


def summarise(findings: Findings, settings: Settings) -> dict[str, Any]:
    """Summarise an audit; everything is a JSON value.

    Returns:
        conclusive: whether the evidence is complete and sound.
        rows: statistics of each model, attack and ε; see `result_rows`. "worst of all" takes each case's worst attack.
        margins: of each model; see `_margins`.
        certificates: of each model and σ of smoothing; see `_certificates`.
        paired_certificates: the certified Dice of each further model minus that of the first one, case by case.
        shift: of each model, disturbance and severity; see `shift_summary.shift_rows`.
        shift_models: of each model over all of them; see `shift_summary.shift_models`.
        paired_shift: of each further model; see `shift_summary.shift_paired`.
        worst_shift: of each model and severity; see `worst_shift_summary.worst_shift_rows`.
        paired_worst_shift: of each further model; see `worst_shift_summary.worst_shift_paired`.
        confidence: of each model and condition; see `confidence_summary.confidence_rows`.
        confidence_warnings: whether low confidence would have warned; see `confidence_summary.confidence_warnings`.
        input_check: what it says of each model's untouched scans; see `input_check.false_alarms`.
        silent_failures: disturbed predictions that nothing has warned of; see `input_check.silent_failures`.
        frequency: of each model under the frequency attack; see `frequency.frequency_rows`.
        transfer: of each model under each other one's noise; see `transfer.transfer_rows`.
        paired: Dice of each further model minus that of the first one, case by case; see `_paired`.
        paired_margins: the same of the robustness margins; see `_paired_margins`.
        verdicts, failed: as found.
        settings: those that tell what the numbers mean.
    """
    groups = grouped(chain(findings.records, worst_of_all(findings.records, settings.attacks)))
    models = list(dict.fromkeys(model for model, _, _ in groups))
    by_model = [[entry for entry in findings.margins if entry.model == model] for model in models]
    margins = [_margins(found) for found in by_model if found]
    return {
        "conclusive": findings.conclusive,
        "rows": [group.row(key) for key, group in groups.items()],
        "margins": margins,
        "certificates": [_certificates(group) for group in _by_sigma(findings).values()],
        "paired_certificates": _paired_certificates(models, findings),
        "shift": (rows := shift_rows(findings.shifted, findings.checked)),
        "shift_models": shift_models(rows),
        "paired_shift": shift_paired(findings.shifted),
        "worst_shift": worst_shift_rows(findings.worst_shifts),
        "paired_worst_shift": worst_shift_paired(findings.worst_shifts),
        "confidence": confidence_rows(findings.records, findings.shifted),
        "confidence_warnings": confidence_warnings(findings.records, findings.shifted),
        "input_check": false_alarms(findings.checked, findings.shifted),
        "silent_failures": silent_failures(findings.checked, findings.shifted, findings.records),
        "frequency": frequency_rows(findings.compressed),
        "transfer": transfer_rows(findings.transferred),
        "paired": [row for model in models[1:] for row in _paired(models[0], model, groups)],
        "paired_margins": [
            row
            for entry in margins
            if entry["model"] != models[0] and margins[0]["model"] == models[0]
            for row in _paired_margins(margins[0], entry)
        ],
        "verdicts": to_json(findings.verdicts),
        "failed": to_json(findings.failed),
        "settings": {key: getattr(settings, key) for key in OF_SETTINGS},
    }


def write_summary(summary: dict[str, Any], records: Iterable[Result], folder: Path) -> None:
    """Write summary.json, summary.csv (a line for each model, attack and ε) and cases.csv (one for each result)."""
    write_atomically(folder / "summary.json", json.dumps(summary, indent=1, allow_nan=False) + "\n")
    write_atomically(folder / "summary.csv", csv_text(_flat(row) for row in summary["rows"]))
    write_csv(folder / "cases.csv", lambda: (_flat(_of_case(record)) for record in records))


def _of_case(record: Result) -> dict[str, Any]:
    """A result's line, which without noise tells nothing of it."""
    told = PER_CASE if record.noise is not None else PER_CASE[: -len(OF_NOISE)]
    sure = record.confidence
    judged = {"confidence": sure and sure.mean, "calibration_error": sure and calibration_error(sure.bins)}
    return {key: to_json(getattr(record, key)) for key in told} | judged


def _margins(found: Sequence[Margin]) -> dict[str, Any]:
    """Distribution of a model's robustness margins; a case that stands all noise counts as more than the largest ε."""
    largest = max(entry.largest_tried for entry in found)
    eps = [entry.eps for entry in found]
    return {
        "model": found[0].model,
        "cases": len(found),
        "threshold": found[0].threshold,
        "largest_tried": largest,
        "failed_without_noise": sum(value == 0 for value in eps),
        "stood_all": sum(value is None for value in eps),
        "quantiles": {f"{q:g}": censored_quantile(eps, q) for q in QUANTILES},  # None: above the largest ε tried
        "median_units": {unit: _at_median(found, unit) for unit in ("paper", "rms", "raw")},
        "values": {entry.case: entry.eps for entry in found},
    }


def _at_median(found: Sequence[Margin], unit: str) -> float | None:
    """The lower median margin in a unit; None if it is above the largest ε tried or the unit has no meaning."""
    values = [None if entry.units is None else entry.units[unit] for entry in found]
    meaningless = any(entry.units and entry.units[unit] is None for entry in found)
    return None if meaningless else censored_quantile(values, 0.5)


def _paired(first: str, second: str, groups: Mapping[Key, Group]) -> Iterator[dict[str, Any]]:
    """Differences of Dice, second model minus first, on the cases that both have, with a Wilcoxon signed-rank test."""
    for (model, eps, attack), group in groups.items():
        if model != first or (second, eps, attack) not in groups:
            continue
        other = groups[second, eps, attack]
        others = dict(zip(other.cases, other.dice, strict=True))
        pairs = zip(group.cases, group.dice, strict=True)
        if differences := [others[case] - dice for case, dice in pairs if case in others]:
            yield {"model": second, "against": first, "attack": attack, "eps": eps, **compared(differences)}


def _paired_margins(first: dict[str, Any], second: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Differences of the margins in ε, second model minus first; a case that stands all noise counts as the largest ε.

    `censored` is the number of cases that one of the models or both stand: their differences are bounds.
    """
    pairs = [(first["values"][case], second["values"][case]) for case in first["values"] if case in second["values"]]
    if not pairs:
        return
    largest = (first["largest_tried"], second["largest_tried"])
    differences = [
        (largest[1] if after is None else after) - (largest[0] if before is None else before) for before, after in pairs
    ]
    names = {"model": second["model"], "against": first["model"]}
    yield {**names, **compared(differences), "censored": sum(None in pair for pair in pairs)}


def _by_sigma(findings: Findings) -> dict[tuple[str, float], list[Certificate]]:
    groups: dict[tuple[str, float], list[Certificate]] = {}
    for entry in findings.certificates:
        groups.setdefault((entry.model, entry.sigma), []).append(entry)
    return groups


def _certificates(group: Sequence[Certificate]) -> dict[str, Any]:
    """Means over the cases of one model and σ."""
    dice = [entry.dice for entry in group]
    return {
        "model": group[0].model,
        "sigma": group[0].sigma,
        "radius": group[0].radius,
        "units": {unit: mean([entry.units[unit] for entry in group], median) for unit in group[0].units},
        "cases": len(group),
        "mean_dice": fmean(dice),
        "interval": interval(dice),
        "worst_dice": min(dice),
        "mean_dice_at_most": fmean(entry.dice_at_most for entry in group),
        "smoothed_dice": fmean(entry.smoothed_dice for entry in group),
        "abstained": fmean(entry.abstained for entry in group),
    }


def _paired_certificates(models: Sequence[str], findings: Findings) -> list[dict[str, Any]]:
    groups, rows = _by_sigma(findings), []
    for (model, sigma), group in groups.items():
        first = {entry.case: entry.dice for entry in groups.get((models[0], sigma), [])}
        differences = [entry.dice - first[entry.case] for entry in group if entry.case in first]
        if model != models[0] and differences:
            rows.append({"model": model, "against": models[0], "sigma": sigma, **compared(differences)})
    return rows


def _flat(row: dict[str, Any]) -> dict[str, Any]:
    """A row of a CSV: dictionaries and intervals become columns of their own."""
    flat: dict[str, Any] = {}
    for key, value in row.items():
        if isinstance(value, dict):
            flat |= {f"{key} {name}": entry for name, entry in value.items()}
        elif key == "interval":
            flat |= dict(zip((f"{key} low", f"{key} high"), value or (None, None), strict=True))
        else:
            flat[key] = value
    return flat
