"""The worst realistic change through nnU-Net: searched, measured through files, judged, told, and kept."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from bare_settings import BARE

from nnunet_ima.attacks.losses import bound
from nnunet_ima.commands.attack import main
from nnunet_ima.evidence.findings import Findings
from nnunet_ima.evidence.records import ShiftSearch, WorstShift
from nnunet_ima.evidence.store import Store
from nnunet_ima.inference.cases import Case
from nnunet_ima.inference.pipeline import Pipeline
from nnunet_ima.inference.preprocessing import Preprocessing
from nnunet_ima.inference.volume import read_volume
from nnunet_ima.report.audit_table import audit_report
from nnunet_ima.report.markdown import markdown
from nnunet_ima.segmentation.run import run_audit
from nnunet_ima.segmentation.settings import WorstShiftSettings
from nnunet_ima.segmentation.summary import summarise
from nnunet_ima.segmentation.worst_search import ChangedScan, Search
from nnunet_ima.segmentation.worst_shift_summary import worst_shift_checks, worst_shift_paired, worst_shift_rows
from nnunet_ima.shift import Scan
from nnunet_ima.shift.scan_files import read_scan
from nnunet_ima.shift.searched import make_chain
from nnunet_ima.tasks.voxelwise import Labels, mean_dice_present

SETTINGS = replace(
    BARE,
    worst_shift=WorstShiftSettings("MR", severity=3, steps=8),
)


def audit(pipeline: Pipeline, cases: list[Case], folder: Path) -> Findings:
    store = Store(folder, {"settings": SETTINGS.question(), "models": {"m": 0}, "cases": {}}, {})
    return run_audit({"m": pipeline}, cases, SETTINGS, store, probes=0)


@pytest.fixture(scope="module")
def found(pipeline: Pipeline, cases: list[Case], tmp_path_factory: pytest.TempPathFactory) -> tuple[Findings, Path]:
    """An audit of one case, and its folder."""
    folder = tmp_path_factory.mktemp("worst") / "audit"
    return audit(pipeline, cases[:1], folder), folder


def test_the_search_is_worse_than_chance_and_true_in_files(found: tuple[Findings, Path]) -> None:
    ((record,), folder) = found[0].worst_shifts, found[1]
    assert record.dice < record.random_dice < record.clean_dice
    assert record.dice == pytest.approx(record.climbed.dice, abs=0.01)
    assert record.random_dice == pytest.approx(record.drawn.dice, abs=0.01)
    assert record.climbed.passes <= record.drawn.passes == 16
    assert record.identity == 0
    assert record.changed > 0
    assert found[0].conclusive
    images = {file.name for file in (folder / "images" / "m" / record.case).iterdir()}
    assert {"worst-shift@3.nii.gz", "worst-shift@3_0000.nii.gz", "worst-shift@3_label.nii.gz"} <= images
    assert not list(folder.glob(".stored-*"))


def test_what_is_done_is_not_searched_again(
    found: tuple[Findings, Path], pipeline: Pipeline, cases: list[Case], monkeypatch: pytest.MonkeyPatch
) -> None:
    """An audit that stopped after the first search goes on with the second one, and finds the same."""
    climbed, done = Search.climbed, list[str]()

    def counted(self: Search, generator: torch.Generator) -> Any:
        done.append("climbed")
        return climbed(self, generator)

    monkeypatch.setattr(Search, "climbed", counted)
    folder = found[1] / "results" / "m" / cases[0].name
    assert audit(pipeline, cases[:1], found[1]).worst_shifts == found[0].worst_shifts
    for file in (folder / "worst-shift@3.json", folder / "worst-shift" / "drawn@3.json"):
        file.unlink()
    assert audit(pipeline, cases[:1], found[1]).worst_shifts == found[0].worst_shifts
    assert not done


def test_the_loss_is_that_of_the_moved_label(pipeline: Pipeline, cases: list[Case]) -> None:
    """Hard shares give the attack's Dice loss; its gradient reaches all parameters; no structure, no evidence."""
    scan = read_scan(cases[0].images, cases[0].label, "MR")
    changed = ChangedScan(pipeline, Preprocessing(pipeline.model, scan.spacing), scan, make_chain(scan, 2, 0))
    volume = read_volume(cases[0], pipeline.model)
    _, shares = changed.seen(changed.chain.identity)
    logits = torch.randn((1, 3, *volume.target.shape[1:]), generator=torch.Generator().manual_seed(0))
    predicted, target = torch.cat((logits, shares[None]), 1), volume.target[None]
    theirs = bound("dice", pipeline.model.labels)(logits, target, 0.0)
    assert changed.loss(predicted, target, 0.0) == pytest.approx(theirs, abs=1e-5)
    assert changed.quality(predicted, target) == mean_dice_present(logits, target, pipeline.model.labels)
    assert changed.quality(torch.cat((logits, 0 * shares[None]), 1), target) == math.inf
    unit = torch.full((1, len(changed.chain.low)), 0.1, requires_grad=True)
    (gradient,) = torch.autograd.grad(changed.loss(changed.predicted(unit), target, 0.0).sum(), unit)
    assert gradient.isfinite().all()
    assert (gradient != 0).float().mean() > 0.95


def test_regions_and_ignored_voxels_count_as_in_every_score() -> None:
    """Overlapping regions share labels, and what is ignored counts neither in the loss nor in Dice."""
    label = np.zeros((2, 6, 6), np.int16)
    label[:, 1:3], label[:, 3:5], label[:, 5, :3] = 1, 2, 3
    manager = SimpleNamespace(
        has_regions=True, foreground_regions=[(1, 2), 2], has_ignore_label=True, ignore_label=3, foreground_labels=[]
    )
    model = SimpleNamespace(device=torch.device("cpu"), label_manager=manager, labels=Labels(regions=True, ignore=3))
    scan = Scan(label[None].astype(np.float32), label, np.eye(4), "MR")
    pipeline: Any = SimpleNamespace(model=model)
    changed = ChangedScan(pipeline, lambda *it: it, scan, make_chain(scan, 1, 0, ["gamma"]))  # type: ignore[arg-type]
    _, shares = changed.seen(changed.chain.identity)
    regions = [np.isin(label, (1, 2)), label == 2, label == 3]
    target = torch.from_numpy(np.stack(regions))[None].long()
    logits = torch.randn((1, 2, *label.shape), generator=torch.Generator().manual_seed(0))
    predicted = torch.cat((logits, shares[None]), 1)
    assert changed.loss(predicted, target, 0.0) == pytest.approx(
        bound("dice", model.labels)(logits, target, 0.0), abs=1e-5
    )
    assert changed.quality(predicted, target) == mean_dice_present(logits, target, model.labels)


def one(model: str, case: str, dice: float, **changed: Any) -> WorstShift:
    search = ShiftSearch(parameters={"gamma": (0.1,)}, dice=dice, passes=40, loss=(0.2, 0.3))
    record = WorstShift(
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
        modality="MR",
        severity=2,
        told={"gamma": "γ 1.11", "blur": "blur of 1.0 mm"},
        changed=0.1,
        clean_dice=0.9,
        random_dice=0.8,
        climbed=search,
        drawn=replace(search, dice=0.8, loss=()),
        identity=0.0,
    )
    return replace(record, **changed)


def test_checks_fail_where_they_should() -> None:
    sound = [one("m", "a", 0.5), one("m", "b", 0.6)]
    assert [check.result for check in worst_shift_checks(sound)] == ["passed"] * 3
    lucky = [replace(it, drawn=replace(it.drawn, dice=0.4)) for it in sound]
    moved = [one("m", "a", 0.5), one("m", "b", 0.6, identity=0.01)]
    lost = [one("m", "a", 0.5), replace(sound[1], dice=0.7)]
    for broken, place in ((lucky, 0), (moved, 1), (lost, 2)):
        assert [check.result for check in worst_shift_checks(broken)].index("failed") == place
    assert [check.result for check in worst_shift_checks([])] == ["not run"] * 3


def test_rows_are_worst_first_and_models_are_compared() -> None:
    records = [one("weak", "a", 0.5), one("weak", "b", 0.3), one("hard", "a", 0.7), one("hard", "b", 0.6)]
    weak, hard = worst_shift_rows(records)
    assert (weak["mean_dice"], weak["worst_case"], weak["random_dice"]) == (pytest.approx(0.4), "b", pytest.approx(0.8))
    assert [row["case"] for row in weak["found"]] == ["b", "a"]
    assert hard["mean_dice"] == pytest.approx(0.65)
    (row,) = worst_shift_paired(records)
    assert (row["model"], row["against"], row["better"]) == ("hard", "weak", 2)
    assert row["mean_difference"] == pytest.approx(0.25)


def test_the_report_names_every_change(make_findings: Callable[..., Findings]) -> None:
    findings = make_findings()
    findings.worst_shifts = [one("weak", "case_0", 0.5), one("hard", "case_0", 0.7)]
    text = markdown(audit_report(summarise(findings, replace(SETTINGS, attacks=("pgd",), eps=(1.0, 5.0))), {}))
    assert "## The worst realistic change" in text
    assert "**hard** against weak: Dice under the worst change that was found for each differs by +0.200" in text
    row = next(line for line in text.splitlines() if line.startswith("| case_0") and "γ 1.11" in line)
    assert [cell.strip() for cell in row.strip("|").split("|")] == [
        *("case_0", "0.900", "0.800", "0.500", "γ 1.11; blur of 1.0 mm")
    ]


ARGUMENTS = ["--eps", "0", "--no-tta", "--no-margins", "--check-cases", "0", "--limit", "1"]


def test_the_command_tells_it_all(trained_model: Path, phantom: Any, tmp_path: Path, capsys: Any) -> None:
    images = ["--images", str(phantom.raw / "imagesTr"), "--labels", str(phantom.raw / "labelsTr")]
    wanted = ["--worst-shift", "mr", "--worst-severity", "2", "--worst-steps", "4", "--worst-changes", "blur", "gamma"]
    main(
        ["--model", str(trained_model), "--name", "m", *images, *ARGUMENTS, *wanted, "--output", str(tmp_path / "out")]
    )
    told = capsys.readouterr().out
    assert "## The worst realistic change" in told
    assert "blur of" in told
    assert (tmp_path / "out" / "worst_shift_m.png").stat().st_size > 5000
    summary = json.loads((tmp_path / "out" / "summary.json").read_text())
    # whether four steps find more than chance on one case depends on the model, and that on the processor
    results = [check["result"] for check in summary["verdicts"]]
    assert len(results) == 3
    assert ("Conclusive: all 3 checks of the evidence passed." in told) == (results == ["passed"] * 3)
    assert ("**NOT CONCLUSIVE.**" in told) == ("failed" in results)
    (row,) = summary["worst_shift"]
    assert row["found"][0]["told"].keys() == {"blur", "gamma"}
    dossier = (tmp_path / "out" / "dossier.html").read_text()
    assert "The worst realistic change found" in dossier


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--worst-shift", "mr", "--worst-severity", "0"], "--worst-severity must be a number from 1 to 5, got 0"),
        (["--worst-shift", "mr", "--worst-steps", "3"], "--worst-steps must be at least 4, got 3"),
        (["--worst-changes", "gamma"], "--worst-changes belong to --worst-shift"),
        (["--worst-shift", "mr", "--worst-changes", "dose"], "--worst-changes dose cannot be searched in mr scans"),
    ],
)
def test_what_cannot_be_searched(
    trained_model: Path, tmp_path: Path, capsys: Any, more: list[str], message: str
) -> None:
    with pytest.raises(SystemExit) as stop:
        main(["--model", str(trained_model), *ARGUMENTS, "--output", str(tmp_path / "out"), *more])
    assert stop.value.code == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
