from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib import image as mpl_image

from nnunet_ima.classification.examples import Example
from nnunet_ima.classification.scores import wilson
from nnunet_ima.report.classifier_figures import draw_accuracy_curves, draw_examples
from nnunet_ima.report.classifier_table import classifier_report
from nnunet_ima.report.markdown import markdown

FACTS = {"images": "100, of which 60 COVID", "norm": "L2"}
ACCURACY = {"ce": (95, 40, 0), "ima": (91, 80, 50)}  # of 100 images, at ε 0, 1 and 5


def summary() -> dict[str, Any]:
    rows = [
        {
            "model": model,
            "eps": eps,
            "rms": eps / 224,
            "accuracy": wilson(right, 100),
            "sensitivity": wilson(right // 2, 60),
            "specificity": wilson(right // 3, 40),
            "attacks": {"pgd-100": wilson(right, 100), "apgd-100": wilson(right, 100)},
            "noise": wilson(right, 100) if eps else None,
            "auc_noise": {"value": 0.9, "low": 0.85, "high": 0.95} if eps else None,
        }
        for model, found in ACCURACY.items()
        for eps, right in zip((0.0, 1.0, 5.0), found, strict=True)
    ]
    models = [
        {
            "model": model,
            "clean": {"accuracy": wilson(found[0], 100)},
            "auc": {"value": 0.97, "low": 0.94, "high": 0.99},
            "mean_accuracy": (found[1] + found[2]) / 200,
            "minimal": {
                "images": 100,
                "wrong_without_noise": 100 - found[0],
                "stood_all": found[2],
                "largest_tried": 5.0,
                "quantiles": {"0.05": 0.0, "0.25": 0.5, "0.5": 1.25, "0.75": None, "0.95": None},
                "median_rms": 1.25 / 224,
            },
            "probe": {
                "eps": 1.0,
                "cases": 50,
                "accuracy": found[1] / 100,
                "accuracy_twice_the_steps": found[1] / 100 - 0.02,
                "accuracy_other_scales": found[1] / 100 - 0.01,
                "accuracy_square": 0.9,
                "accuracy_spsa": None,
                "accuracy_black_box": found[1] / 100 - 0.04,
            },
            "conclusive": True,
        }
        for model, found in ACCURACY.items()
    ]
    check = {"check": "the model is deterministic", "result": "passed", "figure": "0", "conclusive": True}
    return {
        "conclusive": True,
        "models": models,
        "rows": rows,
        "best": "ima",
        "allowance": 0.08,
        "verdicts": [{"model": model, **check} for model in ACCURACY],
        "failed": [],
        "settings": {"eps": [1.0, 5.0], "norm": "L2", "reference_elements": 50176},
        "classes": ["normal", "COVID"],
        "positive": "COVID",
        "images": 100,
    }


def cells(text: str, start: str) -> list[list[str]]:
    """Tables' lines that begin with a cell."""
    lines = [line for line in text.splitlines() if line.startswith(f"| {start} ")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]


def test_the_report_begins_with_the_answer_and_the_table_of_accuracies() -> None:
    text = markdown(classifier_report(summary(), FACTS))
    assert text.startswith("# Classifiers under noise\n\nWhich defence to take: **ima**, with a mean accuracy of 0.650")
    assert "0.910 without noise" in text
    assert "at most 8 points below the best" in text
    assert cells(text, "model")[0] == ["model", "0", "1", "5", "mean of ε > 0"]
    assert cells(text, "ce")[0] == ["ce", "0.950", "0.400", "0.000", "0.200"]
    assert cells(text, "ima")[0] == ["ima", "0.910", "0.800", "0.500", "0.650"]
    assert max(map(len, text.splitlines())) < 400


def test_the_report_holds_intervals_auc_smallest_noise_and_verdicts() -> None:
    text = markdown(classifier_report(summary(), FACTS))
    clean, first, _ = cells(text, "ima")[1:4]
    assert first[1:4] == ["1", "0.00446", "0.800 [0.711, 0.867]"]
    assert first[6:] == ["0.800", "0.800", "0.800", "0.900 [0.850, 0.950]"]
    assert clean[6:] == ["–", "–", "", "0.970 [0.940, 0.990]"]
    assert ["ima", "0", "0.5", "1.25", "0.00558", "> 5", "> 5", "9 of 100", "50"] in cells(text, "ima")
    assert ["ima", "conclusive"] in cells(text, "ima")
    assert ["ima", "1", "50", "0.800", "0.780", "0.790", "0.900", "0.040"] in cells(text, "ima")  # SPSA was not run
    assert "says nothing about ranks" in text
    assert text.endswith("- images: 100, of which 60 COVID\n- norm: L2")


def test_what_failed_is_said_at_once() -> None:
    found = copy.deepcopy(summary())
    found["verdicts"][1] |= {"result": "failed", "conclusive": False}
    found["models"][1]["conclusive"] = found["conclusive"] = False
    text = markdown(classifier_report(found, FACTS))
    assert "The evidence on it is not conclusive" in text.splitlines()[2]
    assert "**NOT CONCLUSIVE.**" in text
    assert ["ima", "**not conclusive**", "the model is deterministic"] in cells(text, "ima")


def test_a_report_without_noise_or_search() -> None:
    found = copy.deepcopy(summary())
    found["rows"] = [row for row in found["rows"] if not row["eps"]]
    found |= {"best": None, "verdicts": [], "conclusive": False}
    found["settings"]["eps"] = []
    for model in found["models"]:
        model |= {"minimal": None, "mean_accuracy": None}
    text = markdown(classifier_report(found, FACTS))
    assert cells(text, "ce")[0] == ["ce", "0.950"]
    assert "smallest noise" not in text


def coloured(file: Path, colour: tuple[int, int, int]) -> int:
    """Number of pixels of this colour, but for the smoothing of edges."""
    found = mpl_image.imread(file)[..., :3]
    return int((np.abs(255 * found - colour) < 30).all(-1).sum())


def test_each_model_has_its_curve(tmp_path: Path) -> None:
    draw_accuracy_curves(summary(), tmp_path / "both.png")
    one = summary()
    one["models"] = one["models"][:1]
    draw_accuracy_curves(one, tmp_path / "one.png")
    orange = (255, 127, 14)
    assert coloured(tmp_path / "both.png", orange) > 200
    assert coloured(tmp_path / "one.png", orange) == 0
    assert coloured(tmp_path / "one.png", (31, 119, 180)) > 200


def test_wrong_predictions_are_red(tmp_path: Path) -> None:
    image = np.random.default_rng(0).random((16, 16))
    right = [Example(0.0, image, "COVID", True), Example(5.0, image + 0.1, "COVID", True)]
    wrong = [right[0], Example(5.0, image + 0.1, "normal", False)]
    draw_examples({"ce": right, "ima": right}, tmp_path / "right.png")
    draw_examples({"ce": wrong, "ima": right[:1]}, tmp_path / "wrong.png", "one image")
    assert coloured(tmp_path / "right.png", (255, 0, 0)) == 0
    assert coloured(tmp_path / "wrong.png", (255, 0, 0)) > 10
    with pytest.raises(ValueError, match="no panels"):
        draw_examples({}, tmp_path / "none.png")
