"""Whole audits of a small trained model: their numbers, their files, and going on after an interruption."""

from __future__ import annotations

import errno
import json
import os
import shutil
import stat
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import torch

from nnunet_ima.attacks.presets import PRESETS
from nnunet_ima.evidence.findings import Findings
from nnunet_ima.evidence.gate import Requirement, unmet
from nnunet_ima.evidence.lock import LOCK
from nnunet_ima.evidence.schema import to_json
from nnunet_ima.evidence.store import Store
from nnunet_ima.inference.cases import Case
from nnunet_ima.inference.pipeline import Pipeline
from nnunet_ima.report.audit_table import audit_report
from nnunet_ima.report.markdown import markdown
from nnunet_ima.segmentation import run
from nnunet_ima.segmentation.case_audit import CaseAudit
from nnunet_ima.segmentation.run import run_audit
from nnunet_ima.segmentation.settings import Settings
from nnunet_ima.segmentation.summary import summarise

SETTINGS = Settings(
    attacks=("pgd", "standard"),
    eps=(0.1, 0.3),
    unit="rms",
    norm="L2",
    reference_elements=None,
    steps=4,
    seed=0,
    threshold=0.5,
    margins=True,
    tolerance=2.0,
    save_adversarial=False,
)


def audit(
    pipeline: Pipeline, cases: list[Case], folder: Path, settings: Settings = SETTINGS, probes: int = 1
) -> Findings:
    return run_audit({"m": pipeline}, cases, settings, Store(folder, {"settings": repr(settings)}, {}), probes)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("audit") / "out"


@pytest.fixture(scope="module")
def findings(pipeline: Pipeline, cases: list[Case], folder: Path) -> Findings:
    return audit(pipeline, cases, folder)


def comparable(findings: Findings) -> list[Any]:
    """All that is found, but for the seconds it took."""
    records = [to_json(replace(record, seconds=0.0)) for record in findings.records]
    return [sorted(records, key=json.dumps), sorted(to_json(findings.margins), key=json.dumps), findings.verdicts]


def test_every_measurement_is_there(findings: Findings, cases: list[Case]) -> None:
    found = [(record.case, record.attack, record.eps) for record in findings.records]
    wanted = [(case.name, "clean", 0.0) for case in cases]
    wanted += [(case.name, attack, eps) for case in cases for eps in SETTINGS.eps for attack in SETTINGS.attacks]
    assert sorted(found) == sorted(wanted)
    assert findings.failed == []
    assert len(findings.verdicts) == 10
    json.dumps(to_json(findings.records), allow_nan=False)


def test_standard_is_at_most_pgd_and_both_at_most_random_noise(findings: Findings) -> None:
    attacked = [record for record in findings.records if record.attack != "clean"]
    dice = {(record.case, record.attack, record.eps): record.dice for record in attacked}
    for record in attacked:
        assert dice[record.case, "standard", record.eps] <= dice[record.case, "pgd", record.eps]
        assert record.dice <= record.random_dice
    assert min(record.dice for record in attacked) < 0.8 * min(record.clean_dice for record in attacked)


def test_noise_is_within_its_bound_as_stored_and_told_in_all_units(findings: Findings, pipeline: Pipeline) -> None:
    for record in findings.records:
        if record.attack == "clean":
            continue
        assert record.noise.rms <= record.eps * (1 + 1e-6)
        assert record.noise.rms > 0.9 * record.eps or record.dice == 0
        assert record.noise.raw_rms == pytest.approx(record.noise.rms * record.units["raw"] / record.units["rms"])


def test_dice_is_that_of_nnunets_own_evaluation(findings: Findings, cases: list[Case], folder: Path) -> None:
    """On the stored prediction, over the whole volume, slices without foreground included."""
    for record in findings.records:
        name = "clean" if record.attack == "clean" else f"{record.attack}@{record.eps:g}"
        predicted = np.asarray(nib.load(folder / "images" / "m" / record.case / f"{name}.nii.gz").dataobj)
        case = next(case for case in cases if case.name == record.case)
        label = np.asarray(nib.load(case.label).dataobj)
        assert not label.any((0, 1)).all()  # there are slices without foreground, and they count
        dice = [
            2 * ((label == value) & (predicted == value)).sum() / ((label == value).sum() + (predicted == value).sum())
            for value in (1, 2)
        ]
        assert record.dice == pytest.approx(np.mean(dice), abs=1e-9)


def test_files_open_beside_the_image(findings: Findings, cases: list[Case], folder: Path) -> None:
    for case in cases:
        image: Any = nib.load(case.images[0])
        clean = np.asarray(nib.load(folder / "images" / "m" / case.name / "clean.nii.gz").dataobj)
        fragility: Any = nib.load(folder / "images" / "m" / case.name / "fragility.nii.gz")
        assert np.allclose(fragility.affine, image.affine)
        assert fragility.shape == image.shape
        values = np.asarray(fragility.dataobj)
        assert set(np.unique(values)) <= {np.float32(0), np.float32(0.1), np.float32(0.3)}
        worst = min(
            (record for record in findings.records if record.case == case.name and record.eps == 0.1),
            key=lambda record: record.dice,
        )
        file = folder / "images" / "m" / case.name / f"{worst.attack}@0.1.nii.gz"
        attacked = np.asarray(nib.load(file).dataobj)
        assert np.array_equal(values == np.float32(0.1), attacked != clean)
    assert not (folder / "noise").exists()


def test_margin_lies_where_dice_crosses_the_threshold(findings: Findings) -> None:
    for found in findings.margins:
        at = {
            record.eps: record.dice
            for record in findings.records
            if record.case == found.case and record.attack in ("clean", "pgd")
        }
        if found.eps is None:
            assert min(at.values()) >= SETTINGS.threshold
        else:
            assert found.dice < SETTINGS.threshold
            assert all(dice >= SETTINGS.threshold for eps, dice in at.items() if eps < found.eps)
            assert found.units["rms"] == pytest.approx(found.eps)
    assert any(found.eps for found in findings.margins)


def test_killed_half_way_it_goes_on_to_the_same_numbers(
    findings: Findings, pipeline: Pipeline, cases: list[Case], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    original, calls = Store.put, []

    def dying(store: Store, result: Any, *place: str, given: Sequence[str] = ()) -> Any:
        calls.append(place)
        if len(calls) % 9 == 0:
            raise KeyboardInterrupt
        return original(store, result, *place, given=given)

    monkeypatch.setattr(Store, "put", dying)
    deaths = 0
    while True:
        try:
            resumed = audit(pipeline, cases, tmp_path / "out")
        except KeyboardInterrupt:
            deaths += 1
        else:
            break
    assert deaths >= 4
    assert comparable(resumed) == comparable(findings)


def test_full_disk_half_way_it_goes_on_to_the_same_numbers(
    pipeline: Pipeline, cases: list[Case], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = replace(SETTINGS, attacks=("pgd",), eps=(0.3,))
    whole = audit(pipeline, cases[:1], tmp_path / "whole", settings, probes=0)
    original, written = os.fsync, []

    def full(handle: int) -> None:
        if stat.S_ISREG(os.fstat(handle).st_mode):
            written.append(handle)
            if len(written) in (1, 4, 6, 9, 13):  # further apart each time, so that it comes to an end
                raise OSError(errno.ENOSPC, "No space left on device")
        original(handle)

    monkeypatch.setattr(os, "fsync", full)
    found, failures = None, 0
    while found is None:
        try:
            found = audit(pipeline, cases[:1], tmp_path / "out", settings, probes=0)
        except OSError:
            failures += 1
    assert failures == 5
    assert comparable(found) == comparable(whole)
    for file in (entry for entry in (tmp_path / "whole").rglob("*") if entry.suffix != ".json"):
        assert (tmp_path / "out" / file.relative_to(tmp_path / "whole")).exists()
    assert [file.name for file in (tmp_path / "out").rglob(".*")] == [LOCK]
    assert not (tmp_path / "out" / "noise").exists()


def test_damaged_results_are_measured_again_to_the_same_numbers(
    findings: Findings, pipeline: Pipeline, cases: list[Case], folder: Path, tmp_path: Path, capsys
) -> None:
    """Of a finished case: its noise, of which they were made, is no longer kept."""
    out = tmp_path / "out"
    shutil.copytree(folder, out)
    results = out / "results" / "m"
    first, second = (results / case.name for case in cases)
    damage = {
        first / "clean.json": "",
        first / "random@0.3.json": '{"dice": 0.5',
        first / "standard@0.1.json": "[]",
        first / "margin.json": "{}",
        first / "probes" / "repeat.json": "{}",
        first / "probes" / "pgd with twice the steps@0.1.json": "{}",
        first / "probes" / "pgd with twice the steps@0.3.json": "{}",
        first / "shown" / "pgd@0.1.json": "[]",
        first / "finished.json": "3",
        second / "components" / "pgd@0.3.json": "{}",
        second / "pgd@0.3.json": '{"dice": "0"}',
        second / "components" / "apgd-dice@0.1.json": '"text"',
    }
    damage = {file: content for file, content in damage.items() if file.is_file()}
    assert len(damage) >= 9
    for file, content in damage.items():
        file.write_text(content)
    again = audit(pipeline, cases, out)
    assert comparable(again) == comparable(findings)
    assert again.failed == []
    told = [line for line in capsys.readouterr().err.splitlines() if "is damaged" in line]
    assert sorted(told) == sorted(f"{file} is damaged; it is measured again" for file in damage)
    assert not (out / "noise").exists()
    for file in damage:
        kept, made = (json.loads((root / file.relative_to(out)).read_text()) for root in (folder, out))
        assert {key: value for key, value in kept.items() if key != "seconds"} == {
            key: value for key, value in made.items() if key != "seconds"
        }


def test_levels_that_print_alike_are_measured_apart(pipeline: Pipeline, cases: list[Case], tmp_path: Path) -> None:
    eps = (0.2, 0.2000000001)
    settings = replace(SETTINGS, attacks=("fgsm",), eps=eps, margins=False)
    found = audit(pipeline, cases[:1], tmp_path / "out", settings, probes=0)
    assert [record.eps for record in found.records] == [0.0, *eps]
    assert (tmp_path / "out" / "results" / "m" / cases[0].name / "fgsm@0.2000000001.json").is_file()
    requirement = Requirement(1.0, eps[1])
    assert "at ε = 0.2000000001, below 1" in unmet([requirement], found)[0]
    table = markdown(audit_report(summarise(found, settings), {}))
    assert "| 0.2 " in table
    assert "| 0.2000000001 " in table


def test_order_of_cases_and_attacks_changes_no_number(
    findings: Findings, pipeline: Pipeline, cases: list[Case], tmp_path: Path
) -> None:
    turned = audit(pipeline, cases[::-1], tmp_path / "out", probes=0)
    assert comparable(turned)[:2] == comparable(findings)[:2]


def test_other_seed_other_noise(findings: Findings, pipeline: Pipeline, cases: list[Case], tmp_path: Path) -> None:
    other = audit(pipeline, cases[:1], tmp_path / "out", replace(SETTINGS, seed=1, margins=False), probes=0)
    before = {(r.case, r.attack, r.eps): r.random_dice for r in findings.records if r.eps}
    after = {(r.case, r.attack, r.eps): r.random_dice for r in other.records if r.eps}
    assert any(before[key] != value for key, value in after.items())


def test_faulty_cases_are_marked_and_the_others_measured(
    findings: Findings, pipeline: Pipeline, cases: list[Case], tmp_path: Path
) -> None:
    broken = tmp_path / "broken.nii.gz"
    broken.write_bytes(cases[0].images[0].read_bytes()[:200])
    image: Any = nib.load(cases[0].images[0])
    voxels = np.asarray(image.dataobj).astype(np.float32)
    voxels[0, 0, 0] = np.nan
    nan = tmp_path / "nan.nii.gz"
    nib.save(nib.Nifti1Image(voxels, image.affine), nan)
    large, extreme = tmp_path / "large.nii.gz", tmp_path / "extreme.nii.gz"
    voxels = np.asarray(image.dataobj).astype(np.float64)
    nib.save(nib.Nifti1Image(voxels / voxels.max() * 1e19, image.affine), extreme)  # the sum of squares is too large
    voxels[0, 0, 0] = 1e300
    nib.save(nib.Nifti1Image(voxels, image.affine), large)
    empty = tmp_path / "empty.nii.gz"
    nib.save(nib.Nifti1Image(np.zeros(image.shape, np.uint8), image.affine), empty)
    moved = tmp_path / "moved.nii.gz"
    nib.save(nib.Nifti1Image(np.asarray(nib.load(cases[0].label).dataobj), image.affine + np.eye(4)), moved)
    faulty = {
        "unreadable": Case("unreadable", (broken,), cases[0].label),
        "not finite": Case("not finite", (nan,), cases[0].label),
        "too large": Case("too large", (large,), cases[0].label),
        "extreme": Case("extreme", (extreme,), cases[0].label),
        "no foreground": Case("no foreground", cases[0].images, empty),
        "other affine": Case("other affine", cases[0].images, moved),
    }
    settings = replace(SETTINGS, attacks=("fgsm",), margins=False)
    found = audit(pipeline, [*faulty.values(), cases[1]], tmp_path / "out", settings, probes=0)
    errors = {entry.case: entry.error for entry in found.failed}
    assert errors.keys() == faulty.keys()
    for name, words in (
        ("unreadable", str(broken)),
        ("not finite", f"{nan} has 1 voxel"),
        ("too large", f"{large} has voxels of up to 1e+300"),
        ("extreme", f"{extreme} cannot be normalised as the model m needs it"),
        ("no foreground", f"{empty} holds no foreground"),
        ("other affine", str(moved)),
    ):
        assert words in errors[name]
    assert {record.case for record in found.records} == {cases[1].name}
    assert not found.conclusive


def test_noise_in_a_file_is_as_strong_as_on_the_tensor(findings: Findings) -> None:
    """The phantom's voxels are floats, so that storing loses nothing."""
    for record in findings.records:
        if record.attack != "clean":
            assert record.stored_dice == pytest.approx(record.dice, abs=0.02)


def test_adversarial_images_are_kept_on_request(pipeline: Pipeline, cases: list[Case], tmp_path: Path) -> None:
    settings = replace(SETTINGS, attacks=("fgsm",), eps=(0.3,), margins=False, save_adversarial=True)
    audit(pipeline, cases[:1], tmp_path / "out", settings, probes=0)
    clean: Any = nib.load(cases[0].images[0])
    noisy: Any = nib.load(tmp_path / "out" / "images" / "m" / cases[0].name / "adversarial_fgsm@0.3_0000.nii.gz")
    assert np.array_equal(noisy.affine, clean.affine)
    assert noisy.get_data_dtype() == clean.get_data_dtype()
    difference = np.asarray(noisy.dataobj) - np.asarray(clean.dataobj)
    rms = float(np.sqrt(np.mean(np.square(difference, dtype=np.float64))))
    assert rms == pytest.approx(0.3 * float(np.asarray(clean.dataobj).std()), rel=0.02)


def test_a_weaker_attack_never_replaces_a_stronger_one(
    pipeline: Pipeline, cases: list[Case], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    strong, weak = PRESETS["pgd"][0], replace(PRESETS["fgsm"][0], steps=1)
    monkeypatch.setitem(PRESETS, "both", (strong, weak))
    settings = replace(SETTINGS, attacks=("pgd", "both"), eps=(0.3,), margins=False)
    found = {record.attack: record for record in audit(pipeline, cases[:1], tmp_path / "out", settings, 0).records}
    assert found["both"].components["fgsm"] > found["both"].components["pgd"]
    assert found["both"].dice == found["pgd"].dice
    assert found["both"].worst_component == "pgd"


def test_only_clean(pipeline: Pipeline, cases: list[Case], tmp_path: Path) -> None:
    found = audit(pipeline, cases[:1], tmp_path / "out", replace(SETTINGS, eps=()))
    assert [record.attack for record in found.records] == ["clean"]
    assert {row.result for row in found.verdicts} == {"not run"}


def test_a_vanishing_gradient_is_told(
    pipeline: Pipeline, cases: list[Case], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A model that hides its gradient looks robust to every attack that needs one; the audit says so."""

    class Masked(Pipeline):
        def __call__(self, x: torch.Tensor) -> torch.Tensor:
            return super().__call__(x.detach()) + 0 * x.sum()

    masked = Masked(pipeline.model, mirroring=False)
    found = audit(masked, cases[:1], tmp_path / "out", replace(SETTINGS, attacks=("pgd",), margins=False), probes=1)
    failed = {row.check for row in found.verdicts if row.result == "failed"}
    assert "gradients are finite and do not vanish" in failed
    assert not found.conclusive


def test_no_space_left_stops_the_audit_without_harm(
    pipeline: Pipeline, cases: list[Case], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device", "somewhere")

    settings = replace(SETTINGS, attacks=("fgsm",), margins=False)
    monkeypatch.setattr("nnunet_ima.evidence.store.write_atomically", full)
    with pytest.raises(OSError, match="No space left"):
        audit(pipeline, cases[:1], tmp_path / "full", settings, probes=0)
    monkeypatch.undo()
    shutil.rmtree(tmp_path / "full")
    assert len(audit(pipeline, cases[:1], tmp_path / "full", settings, probes=0).records) == 3


def test_out_of_memory_marks_the_case(
    pipeline: Pipeline, cases: list[Case], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def exhausted(*_: Any) -> Any:
        raise MemoryError("out of memory on cpu with a single window")

    monkeypatch.setattr(CaseAudit, "component", exhausted)
    found = audit(pipeline, cases[:2], tmp_path / "out", replace(SETTINGS, margins=False), probes=0)
    assert [entry.error for entry in found.failed] == ["out of memory on cpu with a single window"] * 2
    assert found.records == []
    assert run.verdict([], [], [])  # and nothing is judged


def test_mixed_precision_is_compared_with_full_precision(
    pipeline: Pipeline, cases: list[Case], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on CUDA, with bfloat16 in place of float16."""
    monkeypatch.setattr("nnunet_ima.segmentation.probes.QUERIES", 5)
    mixed = Pipeline(pipeline.model, mirroring=False, mixed_precision=True)
    settings = replace(SETTINGS, attacks=("pgd",), eps=(0.2,), margins=False)
    found = audit(mixed, cases[:1], tmp_path / "out", settings, probes=1)
    (row,) = (row for row in found.verdicts if row.check == "mixed precision does not weaken the attack")
    assert row.result == "passed"
    results = tmp_path / "out" / "results" / "m" / cases[0].name
    precise = json.loads((results / "probes" / "pgd in full precision@0.2.json").read_text())["dice"]
    assert precise != found.records[1].dice
    assert precise == pytest.approx(found.records[1].dice, abs=0.05)
