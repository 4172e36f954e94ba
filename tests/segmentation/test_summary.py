"""Statistics of an audit against numbers computed by hand and by scipy."""

from __future__ import annotations

import csv
import json
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from bare_settings import BARE
from scipy.stats import wilcoxon

from nnunet_ima.evidence.findings import Findings
from nnunet_ima.evidence.records import Failure, Judgement, Margin, NoiseSize, Passes, Result
from nnunet_ima.segmentation.settings import Settings
from nnunet_ima.segmentation.summary import summarise, write_summary

UNITS: dict[str, float | None] = {"paper": None, "l2": 30.0, "rms": 0.3, "raw": None}


def settings(*attacks: str) -> Settings:
    return replace(BARE, attacks=attacks or ("pgd",), eps=(1.0, 2.0), margins=True)


def record(case: str, dice: float, eps: float = 1.0, attack: str = "pgd", model: str = "m", **more: Any) -> Result:
    """A result under attack, or, by the name of its attack, without noise."""
    attacked = attack != "clean"
    fields: dict[str, Any] = {
        "units": UNITS if attacked else dict.fromkeys(UNITS, 0.0),
        "dice_per_class": {"core": dice, "shell": None},
        "overlap": {"core": (10, 5, 5), "shell": (0, 0, 0)},
        "hd95_mm": 4.0,
        "hd95_mm_per_class": {"core": 4.0, "shell": None},
        "nsd": 0.75,
        "nsd_per_class": {"core": 0.75, "shell": None},
        "volume_error": 0.5,
        "volume_error_per_class": {"core": -0.5, "shell": None},
        "missed": (),
        "clean_dice": 0.9,
        "clean_dice_per_class": {"core": 0.9, "shell": None},
        "random_dice": 0.8 if attacked else None,
        "stored_dice": dice if attacked else None,
        "noise": NoiseSize(norm="L2", size=30.0, l2=30.0, linf=1.0, rms=0.3, raw_rms=None) if attacked else None,
        "worst_component": "apgd-ce" if attacked else None,
        "components": {"apgd-ce": dice} if attacked else {},
        "passes": Passes(forward=7, backward=3) if attacked else Passes(forward=0, backward=0),
        "seconds": 1.5 if attacked else 0.0,
    }
    return Result(**{"model": model, "case": case, "attack": attack, "eps": eps, "dice": dice, **fields, **more})


def clean(case: str, dice: float = 0.9, model: str = "m") -> Result:
    return record(case, dice, 0.0, "clean", model)


def margin(case: str, eps: float | None, model: str = "m") -> Margin:
    units = None if eps is None else {"paper": None, "l2": 100 * eps, "rms": eps, "raw": None}
    return Margin(model=model, case=case, eps=eps, largest_tried=2.0, units=units, dice=0.4, threshold=0.5)


def row(summary: dict[str, Any], attack: str, eps: float, model: str = "m") -> dict[str, Any]:
    (found,) = (
        entry for entry in summary["rows"] if (entry["attack"], entry["eps"], entry["model"]) == (attack, eps, model)
    )
    return found


def test_means_over_cases() -> None:
    records = [
        record("a", 0.2, dice_per_class={"core": 0.2, "shell": None}, hd95_mm=None, stored_dice=None),
        record("b", 0.4, dice_per_class={"core": 0.4, "shell": 0.5}, hd95_mm=6.0, units=UNITS | {"l2": 50.0}),
        record("c", 0.9, dice_per_class={"core": 0.9, "shell": 0.7}, hd95_mm=2.0, units=UNITS | {"l2": 90.0}),
    ]
    found = row(summarise(Findings(records), settings()), "pgd", 1.0)
    assert found["cases"] == 3
    assert found["mean_dice"] == pytest.approx(0.5)
    assert (found["worst_dice"], found["worst_case"]) == (0.2, "a")
    assert found["quantiles"]["0.5"] == pytest.approx(0.4)
    assert found["quantiles"]["0.25"] == pytest.approx(0.3)
    assert found["dice_per_class"] == {"core": pytest.approx(0.5), "shell": pytest.approx(0.6)}
    assert found["random_dice"] == pytest.approx(0.8)
    assert (found["stored_dice"], found["stored_cases"]) == (pytest.approx(0.65), 2)
    assert (found["hd95_mm"], found["without_hd95"]) == (4.0, 1)
    assert found["units"] == {"paper": None, "l2": 50.0, "rms": 0.3, "raw": None}
    assert (found["forward"], found["backward"]) == (21, 9)
    assert "seconds" not in found  # equal audits have equal summaries


def test_pooled_dice_counts_voxels_not_cases() -> None:
    """As in the paper: 2·(90 + 0) / (2·90 + 10 + 30), however small the case that fails altogether."""
    records = [
        record("large", 0.95, overlap={"core": (90, 10, 0), "shell": (1, 1, 1)}),
        record("small", 0.0, overlap={"core": (0, 0, 30), "shell": (0, 0, 0)}),
    ]
    found = row(summarise(Findings(records), settings()), "pgd", 1.0)
    assert found["pooled_dice_per_class"] == {"core": pytest.approx(180 / 220), "shell": pytest.approx(0.5)}
    assert found["pooled_dice"] == pytest.approx((180 / 220 + 0.5) / 2)
    assert found["mean_dice"] == pytest.approx(0.475)


def test_a_class_that_is_nowhere_has_no_dice() -> None:
    found = row(summarise(Findings([record("a", 0.2)]), settings()), "pgd", 1.0)
    assert found["pooled_dice_per_class"] == {"core": pytest.approx(20 / 30), "shell": None}
    assert found["pooled_dice"] == pytest.approx(20 / 30)
    assert found["dice_per_class"]["shell"] is None


def test_interval_holds_the_mean_and_is_that_of_the_t_test_for_many_cases() -> None:
    dice = np.random.default_rng(0).normal(0.6, 0.05, 200).clip(0, 1)
    records = [record(f"{number}", float(value)) for number, value in enumerate(dice)]
    low, high = row(summarise(Findings(records), settings()), "pgd", 1.0)["interval"]
    half = 1.96 * dice.std(ddof=1) / np.sqrt(len(dice))
    assert low == pytest.approx(dice.mean() - half, abs=0.1 * half)
    assert high == pytest.approx(dice.mean() + half, abs=0.1 * half)
    assert summarise(Findings(records), settings()) == summarise(Findings(records), settings())


@pytest.mark.parametrize(
    ("dice", "interval"), [([0.5], None), ([0.5] * 4, [0.5, 0.5]), ([0.0] * 7 + [1.0], ...), ([0.0, 5e-324], ...)]
)
def test_interval_of_degenerate_values(dice: list[float], interval: Any) -> None:
    records = [record(f"{number}", value) for number, value in enumerate(dice)]
    found = row(summarise(Findings(records), settings()), "pgd", 1.0)["interval"]
    if interval is ...:
        assert 0 <= found[0] < found[1] <= 1
    else:
        assert found == interval


def test_worst_of_all_takes_each_cases_worst_attack() -> None:
    records = [clean("a"), clean("b")]
    records += [record("a", 0.3, attack="pgd"), record("a", 0.5, attack="square")]
    records += [record("b", 0.6, attack="pgd"), record("b", 0.2, attack="square")]
    summary = summarise(Findings(records), settings("pgd", "square"))
    assert row(summary, "worst of all", 1.0)["mean_dice"] == pytest.approx(0.25)
    assert [entry["attack"] for entry in summary["rows"]] == ["clean", "pgd", "square", "worst of all"]


def test_worst_of_all_is_left_out_where_it_would_say_nothing() -> None:
    one = [record("a", 0.3), record("b", 0.6)]
    weaker = [record("a", 0.4, attack="square"), record("b", 0.6, attack="square")]
    for records, attacks in ((one, ("pgd",)), ([*one, *weaker], ("pgd", "square"))):
        summary = summarise(Findings(records), settings(*attacks))
        assert {entry["attack"] for entry in summary["rows"]} == set(attacks)


def test_rows_are_in_the_order_of_a_table() -> None:
    records = [record("a", 0.2, eps, model=model) for model in ("z", "m") for eps in (2.0, 1.0)]
    records += [clean("a", model="z"), clean("a", model="m")]
    rows = summarise(Findings(records), settings())["rows"]
    found = [(entry["model"], entry["eps"]) for entry in rows]
    assert found == [("z", 0.0), ("z", 1.0), ("z", 2.0), ("m", 0.0), ("m", 1.0), ("m", 2.0)]


@pytest.mark.parametrize(
    ("eps", "median", "stood", "failed"),
    [
        ([0.5, 1.0, 1.5], 1.0, 0, 0),
        ([0.0, 1.0, None], 1.0, 1, 1),
        ([0.5, None, None], None, 2, 0),  # above the largest noise tried
        ([0.5, 1.0, None, None], 1.0, 2, 0),  # half of the cases have fallen
        ([None], None, 1, 0),
        ([0.0, 0.0, None], 0.0, 1, 2),
    ],
)
def test_median_margin_with_cases_that_stand(
    eps: list[float | None], median: float | None, stood: int, failed: int
) -> None:
    names = [f"{number}" for number in range(len(eps))]
    findings = Findings(
        [clean(name) for name in names], [margin(name, value) for name, value in zip(names, eps, strict=True)]
    )
    (found,) = summarise(findings, settings())["margins"]
    assert found["quantiles"]["0.5"] == median
    assert (found["stood_all"], found["failed_without_noise"], found["cases"]) == (stood, failed, len(eps))
    assert found["median_units"] == {"paper": None, "rms": median, "raw": None}
    assert (found["threshold"], found["largest_tried"]) == (0.5, 2.0)
    assert found["values"] == dict(zip(names, eps, strict=True))


def two_models(first: Sequence[float], second: Sequence[float]) -> list[Any]:
    records = [record(f"{number}", dice, model="first") for number, dice in enumerate(first)]
    return records + [record(f"{number}", dice, model="second") for number, dice in enumerate(second)]


def test_comparison_is_scipys_wilcoxon_on_the_differences() -> None:
    first, second = [0.1, 0.2, 0.3, 0.4, 0.5, 0.6], [0.3, 0.25, 0.28, 0.8, 0.9, 0.9]
    (found,) = summarise(Findings(two_models(first, second)), settings())["paired"]
    differences = np.subtract(second, first)
    assert found["p"] == pytest.approx(wilcoxon(differences).pvalue)
    assert found["mean_difference"] == pytest.approx(differences.mean())
    assert (found["better"], found["worse"], found["cases"]) == (5, 1, 6)
    assert found["interval"][0] < differences.mean() < found["interval"][1]


def test_comparison_is_on_common_cases() -> None:
    """The third case failed with the second model: it must not count for the first one alone."""
    (found,) = summarise(Findings(two_models([0.1, 0.2, 0.9], [0.2, 0.3])), settings())["paired"]
    assert found["cases"] == 2
    assert found["mean_difference"] == pytest.approx(0.1)


def test_equal_models_have_no_p() -> None:
    (found,) = summarise(Findings(two_models([0.1, 0.2], [0.1, 0.2])), settings())["paired"]
    assert (found["p"], found["mean_difference"], found["interval"]) == (None, 0.0, [0.0, 0.0])
    assert (found["better"], found["worse"]) == (0, 0)


def test_comparison_of_margins_counts_a_case_that_stands_as_the_largest() -> None:
    margins = [margin("a", 0.5, "first"), margin("b", 1.0, "first"), margin("c", None, "first")]
    margins += [margin("a", 1.5, "second"), margin("b", None, "second"), margin("c", None, "second")]
    records = [clean(case, model=model) for model in ("first", "second") for case in "abc"]
    (found,) = summarise(Findings(records, margins), settings())["paired_margins"]
    assert found["mean_difference"] == pytest.approx((1.0 + 1.0 + 0.0) / 3)
    assert (found["censored"], found["better"], found["worse"], found["cases"]) == (2, 2, 0, 3)


def test_one_model_is_compared_with_nothing() -> None:
    summary = summarise(Findings([clean("a"), record("a", 0.2)], [margin("a", 1.0)]), settings())
    assert summary["paired"] == []
    assert summary["paired_margins"] == []


def test_each_further_model_is_compared_with_the_first() -> None:
    records = two_models([0.1, 0.2], [0.2, 0.3]) + [record(f"{number}", 0.5, model="third") for number in range(2)]
    margins = [margin("0", eps, model) for eps, model in ((1.0, "first"), (1.5, "second"), (2.0, "third"))]
    summary = summarise(Findings(records, margins), settings())
    for entries, differences in ((summary["paired"], (0.1, 0.35)), (summary["paired_margins"], (0.5, 1.0))):
        assert [(row["model"], row["against"]) for row in entries] == [("second", "first"), ("third", "first")]
        assert [row["mean_difference"] for row in entries] == pytest.approx(differences)


def test_margins_of_one_model_alone_are_not_compared() -> None:
    """The second model's only case failed after its margin was asked for."""
    summary = summarise(Findings(two_models([0.1], [0.2]), [margin("0", 1.0, "first")]), settings())
    assert [entry["model"] for entry in summary["margins"]] == ["first"]
    assert summary["paired_margins"] == []


@pytest.mark.parametrize(
    ("result", "failed", "conclusive"),
    [("passed", 0, True), ("not run", 0, False), ("failed", 0, False), ("passed", 1, False)],
)
def test_verdict_and_failed_cases_are_passed_on(result: str, failed: int, conclusive: bool) -> None:
    verdicts = [Judgement(model="m", check="c", result=result, figure="f", conclusive=result == "passed")]
    failures = [Failure(model="m", case="b", error="unreadable")] * failed
    summary = summarise(Findings([clean("a")], verdicts=verdicts, failed=failures), settings())
    assert summary["conclusive"] is conclusive
    assert summary["verdicts"] == [asdict(entry) for entry in verdicts]
    assert summary["failed"] == [asdict(entry) for entry in failures]


def test_files(tmp_path: Path) -> None:
    """Some results lack all that may be lacking."""
    empty = {"random_dice": None, "stored_dice": None, "hd95_mm": None, "dice_per_class": {"core": None, "shell": None}}
    findings = Findings(
        [
            clean("a"),
            record("a", 0.2, **empty),
            record("a", 0.1, 2.0),
            clean("b"),
            record("b", 0.3),
            record("b", 0, 2.0),
        ],
        [margin("a", 0.5), margin("b", None)],
    )
    summary = summarise(findings, settings())
    write_summary(summary, findings.records, tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["cases.csv", "summary.csv", "summary.json"]

    def refuse(constant: str) -> None:
        pytest.fail(f"{constant} is no JSON")

    assert json.loads((tmp_path / "summary.json").read_text(), parse_constant=refuse) == summary
    rows, cases = (list(csv.DictReader((tmp_path / f"{name}.csv").open())) for name in ("summary", "cases"))
    assert [(entry["attack"], float(entry["eps"])) for entry in rows] == [("clean", 0), ("pgd", 1), ("pgd", 2)]
    assert float(rows[1]["mean_dice"]) == pytest.approx(0.25)
    assert rows[1]["dice_per_class shell"] == ""
    assert len(cases) == 6
    wanted = {"model", "case", "attack", "eps", "units rms", "units raw", "dice", "dice_per_class core", "clean_dice"}
    wanted |= {
        "random_dice",
        "stored_dice",
        "hd95_mm",
        "noise size",
        "noise l2",
        "noise linf",
        "noise rms",
        "noise raw_rms",
    }
    assert {*wanted, "worst_component"} <= set(cases[0])
    assert (cases[1]["case"], cases[1]["dice"], cases[1]["stored_dice"]) == ("a", "0.2", "")


def test_columns_are_the_same_with_and_without_an_interval(tmp_path: Path) -> None:
    columns = []
    for names in ("a", "ab"):
        findings = Findings([record(name, 0.1 * number) for number, name in enumerate(names)])
        write_summary(summarise(findings, settings()), findings.records, tmp_path)
        columns.append((tmp_path / "summary.csv").read_text().splitlines()[0])
    assert columns[0] == columns[1]
    assert "interval low,interval high" in columns[0]
