"""Quantiles of the smallest noise, some of which is only known to be more than was tried."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)


def censored_quantile(values: Sequence[float | None], share: float) -> float | None:
    """A quantile that is always one of the values; None stands for more than was tried."""
    found = np.quantile([np.inf if value is None else value for value in values], share, method="inverted_cdf")
    return None if np.isinf(found) else float(found)
