"""Realistic disturbances through nnU-Net: what is measured, judged, told, and not measured twice."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
from bare_settings import BARE

from nnunet_ima.commands.attack import main
from nnunet_ima.evidence.findings import Findings
from nnunet_ima.evidence.records import Checked, Confidence, Result, Shifted
from nnunet_ima.evidence.store import Store
from nnunet_ima.inference.cases import Case, dataset_cases
from nnunet_ima.inference.pipeline import Pipeline
from nnunet_ima.report.audit_table import audit_report
from nnunet_ima.report.markdown import markdown
from nnunet_ima.report.shift_figure import draw_shift
from nnunet_ima.segmentation import shifted as module
from nnunet_ima.segmentation.input_check import find_likeness
from nnunet_ima.segmentation.run import run_audit
from nnunet_ima.segmentation.settings import Shift
from nnunet_ima.segmentation.shift_summary import shift_checks, shift_models, shift_rows
from nnunet_ima.segmentation.summary import summarise
from nnunet_ima.shift.likeness import learn, read_likeness, write_likeness
from nnunet_ima.shift.scan_files import read_scan

SETTINGS = replace(
    BARE,
    shift=Shift("MR", ("rician-noise", "rotation", "field-of-view", "reoriented", "swapped-channels"), (1, 5)),
)


def audit(pipeline: Pipeline, cases: list[Case], folder: Path) -> Findings:
    store = Store(folder, {"settings": SETTINGS.question(), "models": {"m": 0}, "cases": {}}, {})
    return run_audit({"m": pipeline}, cases, SETTINGS, store, probes=0)


def test_each_disturbance_is_measured_once_through_files(
    pipeline: Pipeline, cases: list[Case], tmp_path: Path, predicted: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    fresh = audit(pipeline, cases[:1], tmp_path / "fresh")
    found = {(record.disturbance, record.severity): record for record in fresh.shifted}
    assert set(found) == {
        ("untouched", 0),
        *((name, severity) for name in SETTINGS.shift.disturbances[:4] for severity in (1, 5)),  # one channel: no swap
    }
    assert len(predicted) == 1 + 9
    assert found["untouched", 0].dice == pytest.approx(found["untouched", 0].clean_dice, abs=1e-3)
    assert found["rician-noise", 5].dice < found["rician-noise", 1].dice
    assert found["rician-noise", 5].level == 0.2
    angles = [json.loads(found["rotation", severity].parameters)["degrees"] for severity in (1, 5)]
    assert np.allclose(np.array(angles[1]), 10 * np.array(angles[0]))  # the same draw, stronger
    assert fresh.conclusive
    predicted.clear()
    assert audit(pipeline, cases[:1], tmp_path / "fresh").shifted == fresh.shifted
    assert not predicted

    measure = module._measure

    def stopped(*arguments: Any) -> Shifted:
        if len(predicted) > 4:
            raise KeyboardInterrupt
        return measure(*arguments)

    monkeypatch.setattr(module, "_measure", stopped)
    with pytest.raises(KeyboardInterrupt):
        audit(pipeline, cases[:1], tmp_path / "out")
    monkeypatch.setattr(module, "_measure", measure)
    done = len(predicted)
    assert audit(pipeline, cases[:1], tmp_path / "out").shifted == fresh.shifted
    assert len(predicted) == 10
    assert done == 5
    assert not list((tmp_path / "out").glob(".stored-*"))  # the disturbed scans


def test_the_next_scan_is_made_while_one_is_in_use() -> None:
    made: list[int] = []
    found = module._ahead(lambda item: made.append(item) or 10 * item, [1, 2, 3])
    assert next(found) == 10
    assert list(found) == [20, 30]
    assert made == [1, 2, 3]
    assert list(module._ahead(lambda item: item, [])) == []


def test_a_structure_that_leaves_the_image_is_no_failure(
    pipeline: Pipeline, cases: list[Case], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def empty(scan: Any, images: Any, label: Path) -> None:
        write(replace(scan, label=0 * scan.label), images, label)

    write = module.write_scan
    monkeypatch.setattr(module, "write_scan", empty)
    found = audit(pipeline, cases[:1], tmp_path)
    assert found.shifted == []
    assert found.failed == []
    assert not found.conclusive  # nothing was measured at all


def test_a_severity_that_has_happened_before_is_left_out(
    pipeline: Pipeline, cases: list[Case], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A scan of 256 grey levels does not change where it is written with as many; with 16 it does."""
    levels = replace(SETTINGS, shift=Shift("MR", ("grey-levels", "rotation"), (1, 5)))
    monkeypatch.setitem(globals(), "SETTINGS", levels)
    scan = nib.load(cases[0].images[0])
    values = scan.get_fdata()
    grey = np.rint(255 * (values - values.min()) / np.ptp(values)).astype(np.float32)
    image = tmp_path / "case_0000.nii.gz"
    nib.save(nib.Nifti1Image(grey, scan.affine), image)
    found = audit(pipeline, [replace(cases[0], images=(image,))], tmp_path / "out")
    assert {(it.disturbance, it.severity) for it in found.shifted} == {
        *(("untouched", 0), ("grey-levels", 5), ("rotation", 1), ("rotation", 5)),
    }
    assert [row.result for row in found.verdicts if row.check == "every disturbance changes the scan"] == ["passed"]


def test_severities_are_compared_on_the_same_disturbances() -> None:
    """Gamma of severity 1 is left out: the mean of severity 2 is better than that of blur alone, but nothing rose."""
    left = [it for it in records("m", 0.2) if (it.disturbance, it.severity) != ("gamma", 1)]
    assert shift_checks(left)[2].result == "passed"
    assert shift_checks(left)[2].figure == "0.700 → 0.680"
    few = [replace(it, dice=0.95) if it.severity == 2 else it for it in left]
    assert shift_checks(few)[2].result == "failed"


def one(model: str, case: str, disturbance: str, severity: int, dice: float) -> Shifted:
    return Shifted(
        dice=dice,
        dice_per_class={"core": dice},
        overlap={"core": (1, 1, 1)},
        hd95_mm=None,
        hd95_mm_per_class={"core": None},
        nsd=dice,
        nsd_per_class={"core": dice},
        volume_error=0.1,
        volume_error_per_class={"core": 0.1},
        missed=(),
        model=model,
        case=case,
        disturbance=disturbance,
        severity=severity,
        level=severity / 10,
        unit="mm",
        parameters="{}",
        changed=float(severity > 0),
        clean_dice=0.9,
    )


def records(model: str, loss: float) -> list[Shifted]:
    """Dice falls by `loss` per severity under blur, by a tenth of it under gamma."""
    found = [one(model, f"case_{n}", "untouched", 0, 0.9) for n in range(3)]
    for n in range(3):
        for severity in (1, 2):
            found.append(one(model, f"case_{n}", "blur", severity, 0.9 - loss * severity))
            found.append(one(model, f"case_{n}", "gamma", severity, 0.9 - 0.1 * loss * severity))
    return found


def test_errors_are_those_of_imagenet_c() -> None:
    rows = shift_rows([*records("weak", 0.2), *records("hard", 0.1)])
    assert [row["mean_dice"] for row in rows if (row["model"], row["disturbance"]) == ("weak", "blur")] == (
        pytest.approx([0.7, 0.5])
    )
    weak, hard = shift_models(rows)
    assert (weak["error"], weak["relative"]) == (1, 1)
    assert hard["error"] == pytest.approx(((0.2 + 0.3) / (0.3 + 0.5) + (0.11 + 0.12) / (0.12 + 0.14)) / 2)
    assert hard["relative"] == pytest.approx(0.5)
    assert hard["fall"] == pytest.approx((0.1 + 0.2 + 0.01 + 0.02) / 4)


def test_checks_fail_where_they_should() -> None:
    sound = records("m", 0.1)
    assert [check.result for check in shift_checks(sound)] == ["passed"] * 3
    lost = [replace(it, dice=0.7) if it.disturbance == "untouched" else it for it in sound]
    idle = [replace(it, changed=0.0) if it.disturbance == "gamma" else it for it in sound]
    better = [replace(it, dice=0.95) if it.severity == 2 else it for it in sound]
    for broken, place in ((lost, 0), (idle, 1), (better, 2)):
        assert [check.result for check in shift_checks(broken)].index("failed") == place
    assert [check.result for check in shift_checks([])] == ["not run"] * 3


def test_the_report_has_a_table_for_each_model_and_compares_them(
    make_findings: Callable[..., Findings], tmp_path: Path
) -> None:
    findings = make_findings()
    findings.shifted = [*records("weak", 0.2), *records("hard", 0.1)]
    summary = summarise(findings, replace(SETTINGS, attacks=("pgd",), eps=(1.0, 5.0)))
    text = markdown(audit_report(summary, {}))
    assert "## Realistic disturbances" in text
    assert "| weak | 0.735 | +0.165 | 1.00 | 1.00 |" in " ".join(text.split()).replace(" | ", " | ")
    assert "0.700 (0.1)" in text
    assert "**hard** against weak: mean Dice of a case over all disturbances differs by +0.083 [0.083, 0.083]" in text
    draw_shift(summary, tmp_path / "shift.png")
    assert (tmp_path / "shift.png").stat().st_size > 5000


def clean(model: str, number: int, mean: float, template: Result) -> Result:
    sure = Confidence(mean=mean, entropy=0.1, bins=((1, 0.9, 1),))
    return replace(template, model=model, case=f"case_{number}", dice=0.9, clean_dice=0.9, confidence=sure)


def answer(record: Shifted, flagged: bool) -> Checked:
    return Checked(
        model=record.model,
        case=record.case,
        disturbance=record.disturbance,
        severity=record.severity,
        flagged=flagged,
        feature="noise",
        distance=9.0 if flagged else 1.0,
        threshold=5.0,
    )


def test_what_passes_in_silence_is_counted(make_findings: Callable[..., Findings], tmp_path: Path) -> None:
    """Under blur six predictions fall: the check flags those of severity 2, the model is unsure of one case."""
    findings = make_findings(("weak",))
    clean_ones = [clean("weak", n, 0.9, findings.records[0]) for n in range(3)]
    findings.records = clean_ones
    unsure = Confidence(mean=0.5, entropy=0.1, bins=((1, 0.9, 1),))
    for record in records("weak", 0.2):
        sure = unsure if record.case == "case_0" else clean_ones[0].confidence
        findings.shifted.append(replace(record, confidence=sure))
        findings.checked.append(answer(record, record.severity == 2 or (record.case, record.severity) == ("case_1", 0)))
    summary = summarise(findings, replace(SETTINGS, attacks=("pgd",), eps=(1.0, 5.0)))
    (row,) = summary["silent_failures"]
    assert [row[key] for key in ("predictions", "fell", "flagged", "unsure", "either", "silent")] == [12, 6, 3, 2, 4, 2]
    assert row["silent_by_disturbance"] == {"blur": 2}
    assert summary["input_check"] == [{"model": "weak", "cases": 3, "false_alarms": 1, "threshold": 5.0}]
    assert [(it["disturbance"], it["severity"], it["flagged"]) for it in summary["shift"]] == [
        *(("blur", 1, 0), ("gamma", 1, 0), ("blur", 2, 1), ("gamma", 2, 1)),
    ]
    text = " ".join(markdown(audit_report(summary, {})).split())
    assert "1 of 3 untouched scans are flagged (threshold 5.0)" in text
    assert "| blur | 0% | 100% |" in text
    assert "| weak | 6 of 12 | 3 | 2 | 4 | **2** | blur (2) |" in text
    draw_shift(summary, tmp_path / "shift.png")
    assert (tmp_path / "shift.png").stat().st_size > 5000
    findings.checked = []
    text = markdown(audit_report(summarise(findings, replace(SETTINGS, attacks=("pgd",), eps=(1.0, 5.0))), {}))
    assert "Input check of weak: not provided. Learn once" in text
    assert "| 6 of 12 | not provided | 2 | 2 | **4** |" in " ".join(text.split())


@pytest.fixture
def learnt(pipeline: Pipeline, phantom: Any) -> Iterator[Path]:
    """What the phantom's scans look like, beside its model."""
    known = dataset_cases(phantom.name, ["0"], allow_training_cases=True)
    scans = [read_scan(case.images, None, "MR") for case in known]
    file = write_likeness(learn(2 * scans), pipeline.model.folder)
    yield file
    file.unlink()


def test_the_check_is_added_to_an_audit_without_any_prediction(
    pipeline: Pipeline, cases: list[Case], tmp_path: Path, predicted: list[str], learnt: Path
) -> None:
    hidden = learnt.rename(learnt.with_suffix(".away"))
    before = audit(pipeline, cases[:1], tmp_path)
    assert before.checked == []
    hidden.rename(learnt)
    predicted.clear()
    found = audit(pipeline, cases[:1], tmp_path)
    assert not predicted
    assert found.shifted == before.shifted
    answers = {(it.disturbance, it.severity): it for it in found.checked}
    assert set(answers) == {(it.disturbance, it.severity) for it in found.shifted}
    assert not answers["untouched", 0].flagged
    turned = answers["reoriented", 1]
    assert (turned.flagged, turned.feature, turned.distance) == (True, "orientation", None)
    assert answers["rician-noise", 5].flagged
    assert audit(pipeline, cases[:1], tmp_path).checked == found.checked


def test_a_likeness_of_other_images_is_refused(pipeline: Pipeline, learnt: Path) -> None:
    write_likeness(replace(read_likeness(learnt.parent), channels=2), learnt.parent)
    with pytest.raises(ValueError, match=r"learnt from images of 2 channels, the model has 1; learn it again with"):
        find_likeness(pipeline.model)


ARGUMENTS = ["--eps", "0", "--no-tta", "--no-margins", "--check-cases", "0", "--limit", "1"]


def test_the_command_tells_it_all(trained_model: Path, phantom: Any, tmp_path: Path, capsys: Any) -> None:
    images = ["--images", str(phantom.raw / "imagesTr"), "--labels", str(phantom.raw / "labelsTr")]
    command = ["--model", str(trained_model), *images, *ARGUMENTS, "--output", str(tmp_path / "out")]
    main([*command, "--shift", "mr", "--disturbances", "gamma", "--severities", "5", "1"])
    assert "Realistic disturbances" in capsys.readouterr().out
    assert (tmp_path / "out" / "shift.png").is_file()
    page = (tmp_path / "out" / "dossier.html").read_text()
    assert 'id="shift"' in page
    summary = json.loads((tmp_path / "out" / "summary.json").read_text())
    assert [(row["disturbance"], row["severity"], row["level"]) for row in summary["shift"]] == [
        ("gamma", 1, 1.2),
        ("gamma", 5, 2.0),
    ]


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--shift", "mr", "--disturbances", "magic"], "unknown disturbance 'magic'"),
        (["--shift", "mr", "--disturbances", "dose"], "--disturbances dose does not happen to scans of --shift mr"),
        (["--disturbances", "gamma"], "--disturbances belong to --shift"),
        (["--shift", "mr", "--severities", "6"], "--severities must be numbers from 1 to 5, got 6"),
    ],
)
def test_wrong_input(
    trained_model: Path, phantom: Any, tmp_path: Path, capsys: Any, more: list[str], message: str
) -> None:
    images = ["--images", str(phantom.raw / "imagesTr"), "--labels", str(phantom.raw / "labelsTr")]
    with pytest.raises(SystemExit) as stop:
        main(["--model", str(trained_model), *images, *ARGUMENTS, "--output", str(tmp_path / "out"), *more])
    assert stop.value.code == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_images_that_are_no_scans_are_refused(trained_model: Path, tmp_path: Path) -> None:
    from nnunet_ima.commands._audited import _shift
    from nnunet_ima.commands.attack import Attack

    model: Any = type("Model", (), {"dataset_json": {"file_ending": ".png"}})
    with pytest.raises(ValueError, match=r"--shift disturbs scans .*, and the model's images are .png files"):
        _shift(Attack(model=(trained_model,), shift="any"), [model])


def test_the_label_moves_with_the_image(pipeline: Pipeline, cases: list[Case], tmp_path: Path) -> None:
    """A model that segments well segments a moved case about as well: its label has moved, too."""
    found = {(it.disturbance, it.severity): it for it in audit(pipeline, cases[:1], tmp_path).shifted}
    still = nib.load(cases[0].label).get_fdata()
    assert found["rotation", 1].dice > found["untouched", 0].dice - 0.1
    true_positive, _, false_negative = next(iter(found["rotation", 5].overlap.values()))
    assert true_positive + false_negative != (still == 1).sum()  # voxels of the turned label
