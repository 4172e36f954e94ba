"""Statistics over cases: intervals of a mean, and differences between two models."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from statistics import fmean
from typing import Any

import numpy as np
from scipy.stats import bootstrap, wilcoxon

AT_ONCE = 2**18  # numbers that a bootstrap draws together; all at once would be 10⁸ for ten thousand cases


def compared(differences: Sequence[float]) -> dict[str, Any]:
    """Statistics of differences between two models, with the p of a Wilcoxon signed-rank test; None without any."""
    return {
        "cases": len(differences),
        "mean_difference": fmean(differences),
        "interval": interval(differences),
        "better": sum(difference > 0 for difference in differences),
        "worse": sum(difference < 0 for difference in differences),
        "p": float(wilcoxon(differences).pvalue) if any(differences) else None,
    }


def interval(values: Sequence[float]) -> list[float] | None:
    """Bootstrap interval (95 %, bias-corrected and accelerated) of the mean; None for less than two values."""
    if len(values) < 2:
        return None
    if len(set(values)) == 1:
        return [values[0], values[0]]

    batch = max(1, AT_ONCE // len(values))  # the draws are the same in any number of parts

    def at(method: str) -> Any:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of a degenerate distribution, which is looked for below
            rng = np.random.default_rng(0)
            return bootstrap(
                (values,), np.mean, method=method, n_resamples=9999, batch=batch, rng=rng
            ).confidence_interval

    found = at("BCa")
    if not np.isfinite([found.low, found.high]).all():
        found = at("percentile")
    return [float(found.low), float(found.high)]
