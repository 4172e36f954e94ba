"""Publishing what was found by a model that is not there: its reader reads arrays, and its grid is the raw one."""

from __future__ import annotations

import csv
import gzip
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import nibabel as nib
import numpy as np
import pytest
from dossier_fixtures import question

from nnunet_ima.evidence.findings import Findings
from nnunet_ima.evidence.lock import LOCK
from nnunet_ima.evidence.records import Failure
from nnunet_ima.evidence.store import Store
from nnunet_ima.inference.cases import Case
from nnunet_ima.report import publish as module
from nnunet_ima.report.audit_figures import WorstCase
from nnunet_ima.report.kept import Kept
from nnunet_ima.report.material import read_material
from nnunet_ima.report.publish import publish
from nnunet_ima.segmentation.settings import Settings

SHAPE = (4, 12, 10)
IGNORE = 3

MakeFindings = Callable[..., Findings]


class Reader:
    """Reads .npy files as nnU-Net's readers read images: (C, Z, Y, X)."""

    def read_images(self, files: list[str]) -> tuple[np.ndarray, dict[str, Any]]:
        return np.stack([np.load(file) for file in files]), {}

    def read_seg(self, file: str) -> tuple[np.ndarray, dict[str, Any]]:
        return np.load(file)[None], {}


def fake_pipeline() -> Any:
    model = SimpleNamespace(
        configuration_name="2d",
        trainer="nnUNetTrainer",
        folds=("0", "1"),
        mirror_axes=(0, 1),
        configuration=SimpleNamespace(patch_size=[8, 8]),
        device="cpu",
        dataset_json={"file_ending": ".npy"},
        plans=SimpleNamespace(image_reader_writer_class=Reader),
        label_manager=SimpleNamespace(ignore_label=IGNORE),
    )
    return SimpleNamespace(model=model, mirroring=True, step_size=0.5, windows=lambda shape: 8 * shape[0])


@pytest.fixture
def store(tmp_path: Path) -> Store:
    provenance = {"versions": {"torch": "2.9"}, "device": "a CPU", "precision": "float32"}
    return Store(tmp_path / "out", question(("weak", "hard", "weak model"), ()), provenance)


@pytest.fixture
def cases(tmp_path: Path) -> list[Case]:
    found = []
    for number in range(3):
        image, label = tmp_path / f"image_{number}.npy", tmp_path / f"label_{number}.npy"
        np.save(image, np.random.default_rng(number).normal(100, 20, SHAPE))
        true = np.zeros(SHAPE, dtype=np.int16)
        true[:, 2:8, 3:7], true[:, 10:] = 1, IGNORE
        np.save(label, true)
        found.append(Case(f"case_{number}", (image,), label))
    return found


@pytest.fixture
def worst(monkeypatch: pytest.MonkeyPatch) -> list[WorstCase]:
    """The worst cases that are drawn; the fake volumes are their raw files, and a σ is 50 raw units."""

    def read_volume(case: Case, model: Any) -> Any:
        scale, spacing = (50.0,), (1.0, 1.0, 1.0)
        return SimpleNamespace(
            **{"case": case, "label": np.load(case.label), "scale": scale, "properties": {"spacing": spacing}},
            **dict.fromkeys(("image", "target", "mask"), np.zeros(1)),
        )

    shown: list[WorstCase] = []

    def draw(case: WorstCase, file: Path) -> None:
        shown.append(case)
        drawing(case, file)

    drawing = module.draw_worst_case
    monkeypatch.setattr("nnunet_ima.inference.volumes.read_volume", read_volume)
    monkeypatch.setattr("nnunet_ima.report.kept.raw_noise", lambda volume, noise, model: 50 * noise.numpy())
    monkeypatch.setattr(module, "draw_worst_case", draw)
    return shown


def write_images(store: Store, model: str, case: str, *levels: float) -> None:
    """Predictions and noise of a finished case: without noise class 1 lies on the label, at ε further down by ε."""
    folder = store.folder / "images" / model / case
    folder.mkdir(parents=True)
    clean = np.zeros(SHAPE, dtype=np.int16)
    clean[:, 2:8, 3:7] = 1
    np.save(folder / "clean.npy", clean)
    for eps in levels:
        np.save(folder / f"pgd@{eps:g}.npy", np.roll(clean, int(eps), 1))
        np.save(folder / f"noise_pgd@{eps:g}.npy", np.full((1, *SHAPE), eps, dtype=np.float16))


def names(store: Store) -> set[str]:
    return {path.name for path in store.folder.iterdir() if path.is_file() and path.name != LOCK}


def test_all_files_are_written_and_told(
    make_findings: MakeFindings, settings: Settings, store: Store, cases: list[Case], worst: list[WorstCase]
) -> None:
    findings = make_findings(("weak", "hard"))
    for model in ("weak", "hard"):
        write_images(store, model, "case_0", 1.0, 5.0)
    text = publish(findings, {"weak": fake_pipeline(), "hard": fake_pipeline()}, cases, settings, store)
    figures = {"dice.png", "margins.png", "worst_case_weak.png", "worst_case_hard.png"}
    tables = {"manifest.json", "summary.json", "summary.csv", "cases.csv", "report.md"}
    pages = {"dossier.html", "dossier.json.gz", "card.json", "card_weak.html", "card_hard.html"}
    assert names(store) == tables | figures | pages
    assert f"Report, figures and all results: {store.folder}\n" in text
    assert text.endswith(f"To read, look into and file: {store.folder / 'dossier.html'}")
    report = (store.folder / "report.md").read_text()
    assert report.startswith("# Robustness audit\n\n**weak**: mean Dice 0.880 without noise, 0.380 under")
    assert all(f"![{name}]({name})" in report for name in figures)
    assert len(list(csv.reader((store.folder / "cases.csv").open()))) == len(findings.records) + 1
    assert len(json.loads((store.folder / "summary.json").read_text())["rows"]) == 6


def test_the_dossier_shows_what_the_audit_has_kept(
    make_findings: MakeFindings,
    settings: Settings,
    store: Store,
    cases: list[Case],
    worst: list[WorstCase],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for case in cases[:2]:
        write_images(store, "weak", case.name, 1.0, 5.0)
    publish(make_findings(("weak",)), {"weak": fake_pipeline()}, cases, settings, store)
    material = read_material(store.folder)
    assert [(it.case, [layer.eps for layer in it.layers]) for it in material.shown] == [
        ("case_1", [1.0, 5.0]),
        ("case_0", [1.0, 5.0]),
    ]
    shown = material.shown[0]
    read = {name: nib.Nifti1Image.from_bytes(gzip.decompress(getattr(shown, name))) for name in ("image", "label")}
    assert np.allclose(read["image"].get_fdata(), np.load(cases[1].images[0]).T)
    assert set(np.unique(read["label"].get_fdata())) == {0, 1}  # what counts nowhere is not shown
    noise = nib.Nifti1Image.from_bytes(gzip.decompress(shown.layers[1].noise)).get_fdata()
    assert np.unique(noise) == pytest.approx([250.0])
    assert len(material.cases) == 9
    monkeypatch.setattr(Kept, "shown", lambda *_: pytest.fail("made again"))
    publish(make_findings(("weak",)), {"weak": fake_pipeline()}, cases, settings, store)
    assert read_material(store.folder).shown == material.shown


def test_facts_tell_what_the_numbers_depend_on(
    make_findings: MakeFindings, settings: Settings, store: Store, cases: list[Case], worst: list[WorstCase]
) -> None:
    write_images(store, "weak", "case_0", 5.0)
    text = publish(make_findings(("weak",)), {"weak": fake_pipeline()}, cases, settings, store)
    facts = dict(line[2:].split(": ", 1) for line in text.split("## What was attacked")[1].splitlines() if ": " in line)
    for words in ("2d of nnUNetTrainer", "fold 0, 1", "8×8 with step 0.5", "mirrored copies averaged", "on cpu"):
        assert words in facts["weak"]
    assert "480 elements and takes 32 passes" in facts["weak"]
    assert "L2 norm on 100 elements" in facts["ε"]
    assert "steps = " in facts["attack pgd"]
    assert facts["cases"].startswith("3,")
    assert (facts["seed"], facts["versions"], facts["computed on"]) == ("7", "torch 2.9", "a CPU, float32")


def test_worst_case_is_where_dice_falls_furthest(
    make_findings: MakeFindings, settings: Settings, store: Store, cases: list[Case], worst: list[WorstCase]
) -> None:
    """Not where it is lowest: case 2 is lower before and after."""
    findings = make_findings(("weak",))
    findings.records = [
        replace(record, dice=0.37) if (record.case, record.eps) == ("case_1", 5.0) else record
        for record in findings.records  # from 0.88; case 2 falls from 0.86 to 0.36
    ]
    for case in cases:
        write_images(store, "weak", case.name, 1.0, 5.0)
    publish(findings, {"weak": fake_pipeline()}, cases, settings, store)
    (case,) = worst
    assert case.title == "weak: case_1 under pgd, ε = 5; Dice 0.880 without noise, 0.370 with it"
    assert np.array_equal(case.image, np.load(cases[1].images[0]))
    assert (case.unit, np.unique(case.noise).tolist()) == ("raw units", [250.0])
    assert np.array_equal(case.clean, case.label)
    assert not np.array_equal(case.attacked, case.label)


def test_ignored_voxels_are_no_failure(
    make_findings: MakeFindings, settings: Settings, store: Store, cases: list[Case], worst: list[WorstCase]
) -> None:
    write_images(store, "weak", "case_0", 5.0)
    publish(make_findings(("weak",)), {"weak": fake_pipeline()}, cases, settings, store)
    for array in (worst[0].label, worst[0].clean, worst[0].attacked):
        assert set(np.unique(array)) == {0, 1}
        assert not array[:, 10:].any()


@pytest.mark.parametrize("missing", ["noise_pgd@5.npy", "pgd@5.npy", "clean.npy", "."])
def test_missing_image_costs_its_figure_only(
    missing: str,
    make_findings: MakeFindings,
    settings: Settings,
    store: Store,
    cases: list[Case],
    worst: list[WorstCase],
) -> None:
    write_images(store, "weak", "case_0", 5.0)
    folder = store.folder / "images" / "weak" / "case_0"
    if missing == ".":
        folder.rename(folder.with_name("elsewhere"))
    else:
        (folder / missing).unlink()
    text = publish(make_findings(("weak",)), {"weak": fake_pipeline()}, cases, settings, store)
    assert not worst
    assert "No figure of weak's worst case" in text
    assert {"dice.png", "margins.png"} == {name for name in names(store) if name.endswith(".png")}
    assert "No figure of weak's worst case" in (store.folder / "report.md").read_text()


def test_a_model_without_any_result_is_left_out(
    make_findings: MakeFindings, settings: Settings, store: Store, cases: list[Case], worst: list[WorstCase]
) -> None:
    """All cases of the second model failed; the first one's are told, and the audit is not conclusive."""
    findings = make_findings(("weak",))
    findings.failed += [Failure(model="hard", case=case.name, error="unreadable") for case in cases]
    text = publish(findings, {"weak": fake_pipeline(), "hard": fake_pipeline()}, cases, settings, store)
    assert "NOT CONCLUSIVE" in text
    assert "unreadable" in text
    assert "hard's worst case" not in text


def test_without_noise_there_is_nothing_to_draw(
    make_findings: MakeFindings, settings: Settings, store: Store, cases: list[Case], worst: list[WorstCase]
) -> None:
    records = [record for record in make_findings(("weak",)).records if record.attack == "clean"]
    text = publish(Findings(records), {"weak": fake_pipeline()}, cases, replace(settings, eps=()), store)
    assert not any(name.endswith(".png") for name in names(store))
    assert "No figure" not in text


def test_names_with_blanks_are_linked(
    make_findings: MakeFindings, settings: Settings, store: Store, cases: list[Case], worst: list[WorstCase]
) -> None:
    findings = make_findings(("weak",))
    for entries in (findings.records, findings.margins, findings.verdicts):
        entries[:] = [replace(entry, model="weak model") for entry in entries]
    write_images(store, "weak model", "case_0", 5.0)
    publish(findings, {"weak model": fake_pipeline()}, cases, settings, store)
    assert "(worst_case_weak%20model.png)" in (store.folder / "report.md").read_text()
    assert "worst_case_weak model.png" in names(store)
