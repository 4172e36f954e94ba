"""What an audit's results say over all cases: means with intervals, margins, and the comparison of two models."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from statistics import fmean, median
from typing import Any

import numpy as np

from nnunet_ima.evidence.findings import Findings
from nnunet_ima.evidence.quantiles import QUANTILES, censored_quantile
from nnunet_ima.evidence.records import Certificate, Margin, Result
from nnunet_ima.evidence.schema import to_json
from nnunet_ima.files import csv_text, write_atomically
from nnunet_ima.segmentation.confidence import calibration_error
from nnunet_ima.segmentation.confidence_summary import confidence_rows, confidence_warnings
from nnunet_ima.segmentation.frequency import frequency_rows
from nnunet_ima.segmentation.input_check import false_alarms, silent_failures
from nnunet_ima.segmentation.settings import Settings
from nnunet_ima.segmentation.shift_summary import shift_models, shift_paired, shift_rows
from nnunet_ima.segmentation.statistics import compared, interval
from nnunet_ima.segmentation.transfer import transfer_rows
from nnunet_ima.segmentation.worst_shift_summary import worst_shift_paired, worst_shift_rows
from nnunet_ima.tasks.dice import dice_of_counts

WORST = "worst of all"  # per case, over all attacks of the audit

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
        rows: statistics of each model, attack and ε; see `_row`. "worst of all" takes each case's worst attack.
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
    records = [*findings.records, *_worst(findings.records, settings)]
    groups = _groups(records)
    models = list(dict.fromkeys(record.model for record in records))
    by_model = [[entry for entry in findings.margins if entry.model == model] for model in models]
    margins = [_margins(found) for found in by_model if found]
    return {
        "conclusive": findings.conclusive,
        "rows": [_row(key, group) for key, group in groups.items()],
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


def write_summary(summary: dict[str, Any], records: Sequence[Result], folder: Path) -> None:
    """Write summary.json, summary.csv (a line for each model, attack and ε) and cases.csv (one for each result)."""
    write_atomically(folder / "summary.json", json.dumps(summary, indent=1, allow_nan=False) + "\n")
    write_atomically(folder / "summary.csv", csv_text(_flat(row) for row in summary["rows"]))
    cases = (_flat(_of_case(record)) for record in records)
    write_atomically(folder / "cases.csv", csv_text(cases))


def _of_case(record: Result) -> dict[str, Any]:
    """A result's line, which without noise tells nothing of it."""
    told = PER_CASE if record.noise is not None else PER_CASE[: -len(OF_NOISE)]
    sure = record.confidence
    judged = {"confidence": sure and sure.mean, "calibration_error": sure and calibration_error(sure.bins)}
    return {key: to_json(getattr(record, key)) for key in told} | judged


def _worst(records: Sequence[Result], settings: Settings) -> list[Result]:
    """Worst result of each model, case and ε over several attacks, unless one of them is always the worst."""
    if len(settings.attacks) < 2:
        return []
    places: dict[tuple[Any, ...], dict[str, Result]] = {}
    for record in records:
        if record.attack != "clean":
            place = (record.model, record.case, record.eps)
            places.setdefault(place, {})[record.attack] = record
    worst = [min(found.values(), key=lambda record: record.dice) for found in places.values()]
    for attack in settings.attacks:
        if all(found[attack].dice == least.dice for found, least in zip(places.values(), worst, strict=True)):
            return []  # this one is the worst everywhere, and its rows say it all
    return [replace(record, attack=WORST) for record in worst]


def _groups(records: Sequence[Result]) -> dict[tuple[str, float, str], list[Result]]:
    """Results by model, ε and attack, in the order of a table."""
    groups: dict[tuple[str, float, str], list[Result]] = {}
    for record in sorted(records, key=lambda record: record.eps):
        groups.setdefault((record.model, record.eps, record.attack), []).append(record)
    models = list(dict.fromkeys(record.model for record in records))
    return {key: groups[key] for key in sorted(groups, key=lambda key: models.index(key[0]))}


def _row(key: tuple[str, float, str], group: Sequence[Result]) -> dict[str, Any]:
    """Statistics over the cases of one model, ε and attack."""
    model, eps, attack = key
    dice = [record.dice for record in group]
    worst = min(group, key=lambda record: record.dice)
    classes = list(group[0].dice_per_class)
    pooled = {name: _pooled([record.overlap[name] for record in group]) for name in classes}
    return {
        "model": model,
        "attack": attack,
        "eps": eps,
        "units": {unit: _mean([record.units[unit] for record in group], median) for unit in group[0].units},
        "cases": len(group),
        "mean_dice": fmean(dice),
        "interval": interval(dice),
        "worst_dice": worst.dice,
        "worst_case": worst.case,
        "quantiles": {f"{q:g}": float(np.quantile(dice, q)) for q in QUANTILES},
        "dice_per_class": {name: _mean([record.dice_per_class[name] for record in group]) for name in classes},
        "pooled_dice": _mean(pooled.values()),
        "pooled_dice_per_class": pooled,
        "random_dice": _mean([record.random_dice for record in group]),
        "stored_dice": _mean([record.stored_dice for record in group]),
        "stored_cases": sum(record.stored_dice is not None for record in group),
        "hd95_mm": _mean([record.hd95_mm for record in group]),
        "without_hd95": sum(record.hd95_mm is None for record in group),
        "nsd": _mean([record.nsd for record in group]),
        "volume_error": _mean([record.volume_error for record in group]),
        "missed": sum(len(record.missed) for record in group),
        "structures": sum(error is not None for record in group for error in record.volume_error_per_class.values()),
        "forward": sum(record.passes.forward for record in group),
        "backward": sum(record.passes.backward for record in group),
    }


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


def _paired(first: str, second: str, groups: dict[tuple[str, float, str], list[Result]]) -> Iterator[dict[str, Any]]:
    """Differences of Dice, second model minus first, on the cases that both have, with a Wilcoxon signed-rank test."""
    for (model, eps, attack), group in groups.items():
        others = {record.case: record.dice for record in groups.get((second, eps, attack), [])}
        differences = [others[record.case] - record.dice for record in group if record.case in others]
        if model == first and differences:
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
        "units": {unit: _mean([entry.units[unit] for entry in group], median) for unit in group[0].units},
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


def _pooled(counts: Sequence[Sequence[int]]) -> float | None:
    return dice_of_counts(*(sum(column) for column in zip(*counts, strict=True)))


def _mean(values: Iterable[float | None], mean: Callable[[list[float]], float] = fmean) -> float | None:
    """Mean of the values that are there; None if there are none."""
    present = [value for value in values if value is not None]
    return mean(present) if present else None


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
