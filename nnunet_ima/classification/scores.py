"""Accuracy, sensitivity, specificity and ROC-AUC of a classifier, with 95 % intervals.

With more than two classes, sensitivity, specificity and AUC set the positive class against all others. AUC is for clean
images and white noise only: an attack stops as soon as the class is wrong, and says nothing about ranks.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from scipy.stats import binomtest, bootstrap, rankdata
from sklearn.metrics import roc_auc_score

Array = np.ndarray[Any, Any]
RESAMPLES = 2000


def wilson(right: float, total: int) -> dict[str, Any] | None:
    """Return a share with its 95 % Wilson interval, as JSON values; None of nothing.

    Args:
        right: number that is counted; of a mean over several draws it is not whole, and the interval is that of the
            nearest whole number.
        total: number of images.

    Raises:
        ValueError: `right` is not between 0 and `total`.
    """
    if not 0 <= right <= total:
        msg = f"right must be between 0 and {total}, got {right}"
        raise ValueError(msg)
    if total == 0:
        return None
    found = binomtest(round(right), total).proportion_ci(method="wilson")
    return {"value": right / total, "low": float(found.low), "high": float(found.high), "images": total}


def rates(predicted: Sequence[int], labels: Sequence[int], positive: int | None) -> dict[str, Any]:
    """Return accuracy, sensitivity and specificity as `wilson` gives them.

    Args:
        predicted: classes (N,).
        labels: true classes (N,).
        positive: the class whose share among its images is the sensitivity; the specificity is the share of the other
            images that are not taken for it, whichever other class they are taken for. None: there is no such class,
            and both are None.

    Raises:
        ValueError: the lengths differ.
    """
    found, truth = np.asarray(predicted, dtype=int), np.asarray(labels, dtype=int)
    if found.shape != truth.shape:
        msg = f"predictions and labels must be as many, got {len(found)} and {len(truth)}"
        raise ValueError(msg)
    accuracy = wilson(int((found == truth).sum()), len(truth))
    if positive is None:
        return {"accuracy": accuracy, "sensitivity": None, "specificity": None}
    ill = truth == positive
    return {
        "accuracy": accuracy,
        "sensitivity": wilson(int((found[ill] == positive).sum()), int(ill.sum())),
        "specificity": wilson(int((found[~ill] != positive).sum()), int((~ill).sum())),
    }


def auc(scores: Sequence[float], labels: Sequence[int], positive: int, seed: int = 0) -> dict[str, Any] | None:
    """Return the area under the ROC curve with a 95 % bootstrap interval (percentiles), as JSON values.

    Positive and other images are drawn anew separately. Classes that do not overlap give an interval of no width.

    Args:
        scores: probabilities (N,) of the positive class, or any other numbers that rise with it.
        labels: true classes (N,).
        positive: the class that should score higher.
        seed: of the bootstrap.

    Returns:
        Value, low and high; None if all images are positive or none is.
    """
    values, ill = np.asarray(scores, dtype=float), np.asarray(labels) == positive
    if ill.all() or not ill.any():
        return None
    value = float(roc_auc_score(ill, values))
    low = high = value
    if 0 < value < 1 and min(ill.sum(), (~ill).sum()) > 1:
        found = bootstrap(
            (values[ill], values[~ill]),
            _area,
            n_resamples=RESAMPLES,
            batch=100,
            vectorized=True,
            method="percentile",
            rng=np.random.default_rng(seed),
        ).confidence_interval
        low, high = float(found.low), float(found.high)
    return {"value": value, "low": low, "high": high}


def _area(ill: Array, well: Array, axis: int = -1) -> Array:
    """AUC as the rank sum of Mann and Whitney, along the last axis."""
    count, others = ill.shape[-1], well.shape[-1]
    ranks = rankdata(np.concatenate([ill, well], axis=-1), axis=-1)[..., :count]
    area: Array = (ranks.sum(-1) - count * (count + 1) / 2) / (count * others)
    return area
