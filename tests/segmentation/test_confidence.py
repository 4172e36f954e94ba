"""Confidence and calibration: of logits whose probabilities are known, and whether it would have warned."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from sklearn.metrics import roc_auc_score

from nnunet_ima.evidence.findings import Findings
from nnunet_ima.evidence.records import Confidence, Result
from nnunet_ima.evidence.schema import from_json, to_json
from nnunet_ima.evidence.store import Store
from nnunet_ima.inference.cases import Case
from nnunet_ima.inference.pipeline import Pipeline
from nnunet_ima.report.audit_table import audit_report
from nnunet_ima.report.markdown import markdown
from nnunet_ima.segmentation.confidence import BINS, calibration_error, confidence, overconfidence, pooled
from nnunet_ima.segmentation.confidence_summary import confidence_rows, confidence_warnings, threshold
from nnunet_ima.segmentation.run import run_audit
from nnunet_ima.segmentation.settings import Settings
from nnunet_ima.segmentation.summary import summarise
from nnunet_ima.tasks.voxelwise import Labels

LINE = 40  # voxels of a volume that is a line


def line(foreground: dict[int, float], background: float = 0.99) -> torch.Tensor:
    """Logits (2, 1, 1, LINE): some voxels are foreground with these probabilities, the others background."""
    p = torch.full((LINE,), 1 - background)
    for place, value in foreground.items():
        p[place] = value
    return torch.stack((1 - p, p)).log()[:, None, None]


def label(places: tuple[int, ...], value: int = 1) -> torch.Tensor:
    target = torch.zeros(1, 1, 1, LINE, dtype=torch.long)
    target[..., list(places)] = value
    return target


def test_confidence_is_that_of_the_prediction_and_its_rim() -> None:
    found = confidence(line({10: 0.8, 11: 0.6}), label((10, 11, 30)), Labels())
    assert found.mean == pytest.approx((0.8 + 0.6 + 4 * 0.99) / 6)  # what is labelled elsewhere is not known
    entropy = [-(p * math.log(p) + (1 - p) * math.log(1 - p)) for p in (0.8, 0.6, *[0.99] * 4)]
    assert found.entropy == pytest.approx(sum(entropy) / 6)


def test_the_calibration_error_of_a_case_made_by_hand() -> None:
    """Of 4 voxels with confidence 0.8 one is wrong, of 2 with 0.6 one; the voxels around are right; one is missed."""
    found = confidence(
        line({10: 0.8, 11: 0.8, 12: 0.8, 13: 0.8, 14: 0.6, 15: 0.6}), label((10, 11, 12, 14, 30)), Labels()
    )
    assert sum(count for count, _, _ in found.bins) == 6 + 4 + 5  # with the rims of both
    wrong = abs(4 * 0.8 - 3) + abs(2 * 0.6 - 1) + abs(9 * 0.99 - 8)
    assert calibration_error(found.bins) == pytest.approx(wrong / 15)
    assert overconfidence(found.bins) == pytest.approx((4 * 0.8 + 2 * 0.6 + 9 * 0.99 - 3 - 1 - 8) / 15)
    twice = pooled([found.bins, found.bins])
    assert [count for count, _, _ in twice] == [2 * count for count, _, _ in found.bins]
    assert calibration_error(twice) == pytest.approx(wrong / 15)


def test_a_bin_holds_its_upper_edge_and_nothing_is_lost() -> None:
    logits = torch.zeros(2, 1, 1, LINE)
    logits[1] = 100.0  # everything is foreground, without a doubt
    found = confidence(logits, label(()), Labels())
    assert found.bins[-1] == (LINE, float(LINE), 0)
    assert calibration_error(found.bins) == overconfidence(found.bins) == 1
    assert len(found.bins) == BINS


def test_nothing_predicted_has_no_confidence_but_a_calibration() -> None:
    found = confidence(line({}), label((20,)), Labels())
    assert found.mean is None
    assert found.entropy is None
    assert calibration_error(found.bins) == pytest.approx(abs(5 * 0.99 - 4) / 5)
    assert calibration_error(confidence(line({}), label(()), Labels()).bins) is None


def test_ignored_voxels_are_not_judged() -> None:
    labels = Labels(ignore=2)
    target = label((10, 11))
    target[..., 12:] = 2
    found = confidence(line({10: 0.8, 11: 0.8, 12: 0.7}), target, labels)
    assert sum(count for count, _, _ in found.bins) == 4  # 8 to 11
    assert found.mean == pytest.approx((0.8 + 0.8 + 0.7 + 4 * 0.99) / 7)


def test_every_region_is_a_question_of_its_own() -> None:
    p = torch.full((2, 1, 1, LINE), 0.01)
    p[0, ..., 10:12], p[1, ..., 10] = 0.9, 0.6
    target = torch.zeros(2, 1, 1, LINE, dtype=torch.long)
    target[:, ..., 10:12] = 1
    found = confidence(torch.logit(p), target, Labels(regions=True))
    assert sum(count for count, _, _ in found.bins) == 2 * 6
    assert sum(right for _, _, right in found.bins) == 2 * 6 - 1  # the second region is missed at 11
    assert found.mean == pytest.approx((2 * 0.9 + 0.6 + 9 * 0.99) / 12)


def test_records_of_an_earlier_release_are_read(make_findings: Callable[..., Findings]) -> None:
    record = make_findings().records[0]
    content = to_json(record)
    del content["confidence"]
    assert from_json(Result, content) == record
    sure = replace(record, confidence=Confidence(mean=0.5, entropy=None, bins=((3, 1.5, 2),)))
    assert from_json(Result, json.loads(json.dumps(to_json(sure)))) == sure


def surely(record: Result, mean: float | None, bins: tuple[tuple[int, float, int], ...] = ((10, 9.0, 8),)) -> Result:
    return replace(record, confidence=Confidence(mean=mean, entropy=0.3, bins=bins))


def test_warnings_are_counted_as_scikit_learn_counts(make_findings: Callable[..., Findings]) -> None:
    """`weak` loses Dice 0.1 per ε: at 1 no case has fallen by more than that, at 5 all have."""
    means = {0.0: (0.95, 0.9, 0.85), 1.0: (0.9, 0.7, 0.96), 5.0: (0.88, 0.4, None)}
    records = [
        surely(record, means[record.eps][int(record.case[-1])])
        for record in make_findings(("weak",)).records
        if record.model == "weak"
    ]
    (found,) = confidence_warnings([replace(it, dice=it.dice + 1e-6) for it in records], [])
    truth, doubt = zip(
        *((record.eps == 5, -(record.confidence.mean or 0.0)) for record in records if record.confidence), strict=True
    )
    assert found["auroc"] == pytest.approx(roc_auc_score(truth, doubt))
    assert (found["fell"], found["predictions"], found["clean_cases"]) == (3, 9, 3)
    assert found["threshold"] == 0.85
    assert found["false_alarms"] == 0
    assert found["detected"] == pytest.approx(2 / 3)  # 0.88 is as sure as a clean case


def test_the_threshold_lets_five_in_a_hundred_lie_below_it(make_findings: Callable[..., Findings]) -> None:
    records = [it for it in make_findings(("hard",), cases=40).records if it.eps == 0]
    clean = [surely(record, 0.5 + 0.01 * number) for number, record in enumerate(records)]
    assert threshold(clean) == pytest.approx(0.52)
    assert threshold(records) is None


def test_rows_pool_cases_and_take_each_case_worst_attack(make_findings: Callable[..., Findings]) -> None:
    records = make_findings(("weak",), cases=2).records
    weaker = [replace(it, attack="fgsm", dice=0.9) for it in records if it.eps == 5]
    bins = (((4, 3.0, 4),), ((6, 5.0, 2),))
    known = [surely(it, 0.8, bins[int(it.case[-1])]) for it in records]
    clean, first, last = confidence_rows([*known, *weaker], [])
    assert (clean["condition"], first["condition"], last["eps"]) == ("clean", "attacked", 5)
    assert last["recorded"] == last["predictions"] == 2
    assert last["mean_dice"] == pytest.approx((0.4 + 0.38) / 2)
    assert last["calibration_error"] == pytest.approx(abs(8 - 6) / 10)


def test_the_report_tells_what_is_not_recorded(make_findings: Callable[..., Findings], settings: Settings) -> None:
    findings = make_findings()
    assert "Confidence: not recorded." in markdown(audit_report(summarise(findings, settings), {}))
    findings.records = [surely(it, 0.8) if it.model == "weak" else it for it in findings.records]
    text = " ".join(markdown(audit_report(summarise(findings, settings), {})).split())
    assert "| weak | attacked, ε = 5 | 3 | 0.800 | 0.300 | 0.100 | +0.100 | 0.380 |" in text
    assert "| hard | attacked, ε = 5 | 3 (0 recorded) | not recorded | not recorded |" in text
    assert "| weak | attacks | 3 of 9 | 0.500 | 0.800 | 0% of 3 | 0% |" in text


def test_an_audit_records_it_without_further_passes(
    pipeline: Pipeline, cases: list[Case], tmp_path: Path, settings: Settings, predicted: list[str]
) -> None:
    plain = replace(settings, eps=(0.3,), unit="rms", attacks=("fgsm",), margins=False, reference_elements=None)
    store = Store(tmp_path, {"settings": plain.question()}, {})
    found = run_audit({"m": pipeline}, cases[:1], plain, store, probes=0)
    clean, attacked = (record.confidence for record in found.records)
    assert clean is not None
    assert attacked is not None
    assert len(predicted) == 1 + 2 + 1 + 1  # clean, white noise, attacked, as a file
    assert 0.5 < clean.mean <= 1
    assert clean != attacked
    assert sum(count for count, _, _ in clean.bins) > 100
    assert run_audit({"m": pipeline}, cases[:1], plain, store, probes=0).records == found.records
