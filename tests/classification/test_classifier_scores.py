from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from nnunet_ima.classification.scores import auc, rates, wilson


@pytest.mark.parametrize(
    ("right", "total", "low", "high"),
    [  # Newcombe 1998, Statistics in Medicine 17, table I: method 3
        (81, 263, 0.2553, 0.3662),
        (15, 148, 0.0624, 0.1605),
        (0, 20, 0.0000, 0.1611),
        (1, 29, 0.0061, 0.1718),
    ],
)
def test_intervals_are_wilsons(right: int, total: int, low: float, high: float) -> None:
    found = wilson(right, total)
    assert found is not None
    assert found["value"] == right / total
    assert found["low"] == pytest.approx(low, abs=5e-5)
    assert found["high"] == pytest.approx(high, abs=5e-5)


def test_of_nothing_there_is_no_share_and_means_over_draws_need_not_be_whole() -> None:
    assert wilson(0, 0) is None
    mean, whole = wilson(14.6, 148), wilson(15, 148)
    assert mean is not None
    assert whole is not None
    assert mean["value"] == 14.6 / 148
    assert (mean["low"], mean["high"]) == (whole["low"], whole["high"])
    with pytest.raises(ValueError, match="between 0 and 3"):
        wilson(4, 3)


def test_rates_of_two_classes() -> None:
    found = rates([1, 1, 0, 0, 1, 0], [1, 1, 1, 0, 0, 0], positive=1)
    assert found["accuracy"]["value"] == pytest.approx(4 / 6)
    assert found["sensitivity"]["value"] == pytest.approx(2 / 3)
    assert found["specificity"]["value"] == pytest.approx(2 / 3)
    swapped = rates([1, 1, 0, 0, 1, 0], [1, 1, 1, 0, 0, 0], positive=0)
    assert swapped["sensitivity"] == found["specificity"]


def test_with_more_classes_the_positive_one_stands_against_the_rest() -> None:
    found = rates([0, 1, 2, 1, 2, 2], [0, 1, 1, 2, 2, 0], positive=1)
    assert found["accuracy"]["value"] == pytest.approx(3 / 6)
    assert found["sensitivity"]["value"] == pytest.approx(1 / 2)
    assert found["specificity"]["value"] == pytest.approx(3 / 4)  # 0 taken for 2 is wrong, but no false alarm
    assert rates([0, 0], [0, 0], positive=1)["sensitivity"] is None
    with pytest.raises(ValueError, match="as many"):
        rates([0], [0, 1], positive=1)


def test_auc_is_that_of_sklearn_and_its_interval_that_of_hanley_and_mcneil() -> None:
    rng = np.random.default_rng(1)
    labels = rng.integers(0, 2, 300)
    scores = np.round(labels + rng.normal(0, 1.5, 300), 1)  # with ties
    found = auc(scores.tolist(), labels.tolist(), positive=1)
    assert found is not None
    area = found["value"]
    assert area == roc_auc_score(labels, scores)
    others = area / (2 - area), 2 * area**2 / (1 + area)
    n, m = labels.sum(), (1 - labels).sum()
    error = (area * (1 - area) + (n - 1) * (others[0] - area**2) + (m - 1) * (others[1] - area**2)) ** 0.5 / (
        n * m
    ) ** 0.5
    assert found["low"] == pytest.approx(area - 1.96 * error, abs=0.015)
    assert found["high"] == pytest.approx(area + 1.96 * error, abs=0.015)
    assert auc(scores.tolist(), labels.tolist(), positive=1) == found
    assert auc((-scores).tolist(), labels.tolist(), positive=0)["value"] == pytest.approx(area)  # type: ignore[index]


def test_auc_at_its_ends() -> None:
    assert auc([0.1, 0.2, 0.8, 0.9], [0, 0, 1, 1], positive=1) == {"value": 1.0, "low": 1.0, "high": 1.0}
    assert auc([0.1, 0.2], [1, 1], positive=1) is None
