"""What the audits of classifiers say: accuracies with intervals, the smallest noise, and which defence to take."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from statistics import fmean
from typing import Any

import torch

from nnunet_ima.classification.audit import BlackBoxed, ClassifierAudit
from nnunet_ima.classification.audit_settings import AuditSettings
from nnunet_ima.classification.records import AttackedImages, Clean
from nnunet_ima.classification.scores import auc, rates, wilson
from nnunet_ima.evidence.quantiles import QUANTILES, censored_quantile
from nnunet_ima.evidence.schema import to_json
from nnunet_ima.files import csv_text, write_atomically
from nnunet_ima.perturbation.budget import Budget

ALLOWANCE = 0.08  # of clean accuracy, that a defence may cost

Row = dict[str, Any]


def summarise_classifiers(
    audits: Sequence[ClassifierAudit],
    labels: Sequence[int],
    ids: Sequence[str],
    classes: Sequence[str],
    positive: str | None,
    settings: AuditSettings,
) -> dict[str, Any]:
    """Summarise audits of the same images; everything is a JSON value.

    Args:
        audits: of all models, in the order of the tables.
        labels: classes (N,).
        ids: names (N,) of the images.
        classes: names of the classes.
        positive: the class that counts as ill; None: there is no such class, and nothing about it is told.
        settings: of the audits.

    Returns:
        conclusive: whether there is evidence and every check of it passed.
        models: of each model; see `_model`.
        rows: of each model and ε, 0 included; see `_row`.
        best, allowance: what `choose` returns, and the clean accuracy that it lets a defence cost.
        verdicts: see `evidence.verdict`, of all models.
        failed: [], for there is nothing that a single image could fail at.
        settings, classes, positive, images: what was measured.

    Raises:
        ValueError: `positive` is no class.
    """
    if positive is not None and positive not in classes:
        msg = f"{positive!r} is none of the classes {', '.join(classes)}"
        raise ValueError(msg)
    number = None if positive is None else list(classes).index(positive)
    models = [_model(audit, labels, number, settings) for audit in audits]
    verdicts = [row for audit in audits for row in audit.verdicts]
    return {
        "conclusive": bool(verdicts) and all(row.conclusive for row in verdicts),
        "models": models,
        "rows": [row for audit in audits for row in _rows(audit, labels, number, settings)],
        "best": choose(models),
        "allowance": ALLOWANCE,
        "verdicts": to_json(verdicts),
        "failed": [],
        "settings": json.loads(json.dumps(asdict(settings))),
        "classes": list(classes),
        "positive": positive,
        "images": len(ids),
    }


def choose(models: Sequence[Row], allowance: float = ALLOWANCE) -> str | None:
    """Return the name of the model to take; None without any noise level.

    It has the highest mean accuracy over the noise levels, under the worst attack at each, among the models whose
    accuracy without noise is at most `allowance` below the best one's; of equals, the more accurate without noise, then
    the first.
    """
    within = [model for model in models if model["mean_accuracy"] is not None]
    if not within:
        return None
    most = max(model["clean"]["accuracy"]["value"] for model in within)
    within = [model for model in within if model["clean"]["accuracy"]["value"] >= most - allowance - 1e-9]
    best = max(within, key=lambda model: (model["mean_accuracy"], model["clean"]["accuracy"]["value"]))
    return str(best["model"])


def image_rows(
    audits: Sequence[ClassifierAudit],
    labels: Sequence[int],
    ids: Sequence[str],
    classes: Sequence[str],
    settings: AuditSettings,
) -> list[Row]:
    """Return a row for each model and image.

    It holds the image's id, its label, the prediction without noise and its probability, the smallest noise found that
    makes the prediction wrong, in the unit of ε and as RMS (0 if it is wrong without noise, None if nothing did or
    nothing was searched), and the smallest level that did (None if none did).
    """
    rows = []
    for audit in audits:
        probabilities = torch.tensor(audit.clean.logits).softmax(1)
        worst: list[tuple[float, Clean | AttackedImages]] = [(0.0, audit.clean)]
        worst += [(eps, audit.attacks[settings.names[-1], eps]) for eps in settings.eps]
        for image, name in enumerate(ids):
            predicted = audit.clean.predicted[image]
            eps = audit.minimal.eps[image] if audit.minimal is not None else None
            rows.append(
                {
                    "model": audit.name,
                    "id": name,
                    "label": classes[int(labels[image])],
                    "predicted": classes[predicted],
                    "probability": round(float(probabilities[image, predicted]), 6),
                    "minimal eps": eps,
                    "minimal rms": _rms(eps, settings),
                    "broken at": next((level for level, found in worst if not found.correct[image]), None),
                }
            )
    return rows


def write_classifier_summary(summary: dict[str, Any], images: Sequence[Row], folder: Path) -> None:
    """Write summary.json, summary.csv (a line for each model and ε) and cases.csv (one for each model and image).

    Args:
        summary: see `summarise_classifiers`.
        images: see `image_rows`.
        folder: exists.
    """
    write_atomically(folder / "summary.json", json.dumps(summary, indent=1, allow_nan=False) + "\n")
    write_atomically(folder / "summary.csv", csv_text(_flat(row) for row in summary["rows"]))
    write_atomically(folder / "cases.csv", csv_text(images))


def _model(audit: ClassifierAudit, labels: Sequence[int], positive: int | None, settings: AuditSettings) -> Row:
    """Results of a model that belong to no single noise level.

    `mean_accuracy` is that over the noise levels under the worst attack, clean images not included. `passes` are those
    of the gradient attacks.
    """
    last = settings.names[-1]
    worst = [fmean(audit.attacks[last, eps].correct) for eps in settings.eps]
    return {
        "model": audit.name,
        "clean": rates(audit.clean.predicted, labels, positive),
        "auc": _auc(audit.clean.logits, labels, positive),
        "mean_accuracy": fmean(worst) if worst else None,
        "minimal": _minimal(audit, settings),
        "probe": None if audit.probe is None else _probe(audit.probe),
        "conclusive": all(row.conclusive for row in audit.verdicts),
        "passes": {
            way: sum(sum(getattr(result, way)) for result in audit.attacks.values()) for way in ("forward", "backward")
        },
    }


def _probe(probe: BlackBoxed) -> Row:
    """What was found on the images checked; all accuracies are shares of those."""
    return {
        "eps": probe.eps,
        "cases": probe.cases,
        "accuracy": probe.quality,
        "accuracy_twice_the_steps": probe.twice_the_steps,
        "accuracy_other_scales": probe.other_scales,
        "accuracy_black_box": probe.black_box,
        "black_box": probe.black_box_name,
        "accuracy_square": probe.square,
        "accuracy_spsa": probe.spsa,
        "accuracy_huge": probe.huge,
        "eps_huge": probe.eps_huge,
        "repeat_difference": probe.repeat_difference,
    }


def _minimal(audit: ClassifierAudit, settings: AuditSettings) -> Row | None:
    """Distribution of the smallest noise; an image that stood all levels counts as more than the largest.

    Its quantiles are over all images, those that are wrong without noise included as 0.
    """
    if audit.minimal is None:
        return None
    eps = audit.minimal.eps
    quantiles = {f"{share:g}": censored_quantile(eps, share) for share in QUANTILES}
    return {
        "images": len(eps),
        "wrong_without_noise": sum(value == 0 for value in eps),
        "stood_all": sum(value is None for value in eps),
        "largest_tried": settings.eps[-1],
        "quantiles": quantiles,
        "median_rms": _rms(quantiles["0.5"], settings),
    }


def _rows(audit: ClassifierAudit, labels: Sequence[int], positive: int | None, settings: AuditSettings) -> list[Row]:
    clean = {attack: audit.clean for attack in settings.names}
    levels = [_row(audit, 0.0, clean, labels, positive, settings)]
    for eps in settings.eps:
        results = {attack: audit.attacks[attack, eps] for attack in settings.names}
        levels.append(_row(audit, eps, results, labels, positive, settings))
    return levels


def _row(
    audit: ClassifierAudit,
    eps: float,
    results: Mapping[str, Clean | AttackedImages],
    labels: Sequence[int],
    positive: int | None,
    settings: AuditSettings,
) -> Row:
    """Results of a model at a noise level.

    Shares are as `scores.wilson` gives them. Accuracy, sensitivity and specificity are those under the worst attack on
    each image; "attacks" holds PGD's own accuracy, and that of each further attack together with those before it.
    "noise" is the accuracy under white noise and "auc_noise" the AUC under its first draw.
    """
    white = audit.noise.get(eps)
    count = len(labels)
    return {
        "model": audit.name,
        "eps": eps,
        "rms": _rms(eps, settings),
        **rates(results[settings.names[-1]].predicted, labels, positive),
        "attacks": {attack: wilson(sum(result.correct), count) for attack, result in results.items()},
        "noise": None if white is None else wilson(sum(white.correct), count),
        "auc_noise": None if white is None else _auc(white.logits, labels, positive),
    }


def _auc(logits: Sequence[Sequence[float]], labels: Sequence[int], positive: int | None) -> Row | None:
    return None if positive is None else auc(_scores(logits, positive), labels, positive)


def _scores(logits: Sequence[Sequence[float]], positive: int) -> list[float]:
    """How much the positive class leads the others together: ranks as its probability does, but never saturates."""
    values = torch.tensor(logits, dtype=torch.float64)
    others = values.clone()
    others[:, positive] = -torch.inf
    lead: list[float] = (values[:, positive] - others.logsumexp(1)).tolist()
    return lead


def _rms(eps: float | None, settings: AuditSettings) -> float | None:
    """RMS noise per pixel in units of the range of intensities; for L∞ the largest there can be."""
    budget = Budget(settings.norm, settings.reference_elements, settings.reference_elements)
    return None if eps is None else budget.rms(eps)


def _flat(row: Row, before: str = "") -> Row:
    """A row of a CSV: dictionaries become columns of their own, what is missing none."""
    flat: Row = {}
    for key, value in row.items():
        if isinstance(value, dict):
            flat |= _flat(value, f"{before}{key} ")
        elif value is not None:
            flat[before + key] = value
    return flat
