"""The worst realistic change through nnU-Net: searched, measured through files, judged, told, and kept."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from nnunet_ima.evidence.findings import Findings
from nnunet_ima.evidence.store import Store
from nnunet_ima.inference.cases import Case
from nnunet_ima.inference.pipeline import Pipeline
from nnunet_ima.segmentation.run import run_audit
from nnunet_ima.segmentation.settings import Settings, WorstShiftSettings
from nnunet_ima.segmentation.worst_search import Search

SETTINGS = Settings(
    attacks=(),
    eps=(),
    unit="rms",
    norm="L2",
    reference_elements=None,
    steps=None,
    seed=0,
    threshold=0.5,
    margins=False,
    tolerance=2.0,
    save_adversarial=False,
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
    found: tuple[Findings, Path], pipeline: Pipeline, cases: list[Case], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    climbed, again = Search.climbed, list[int]()

    def counted(self: Search, generator: torch.Generator) -> Any:
        again.append(1)
        return climbed(self, generator)

    monkeypatch.setattr(Search, "climbed", counted)
    assert audit(pipeline, cases[:1], found[1]).worst_shifts == found[0].worst_shifts
    assert not again

    def stopped(*_: Any) -> Any:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Search, "at_random", stopped)
        patch.setattr(Search, "climbed", lambda self, generator: climbed_before)
        climbed_before = None
        with pytest.raises((KeyboardInterrupt, AttributeError)):
            audit(pipeline, cases[:1], tmp_path / "out")
    fresh = audit(pipeline, cases[:1], tmp_path / "out").worst_shifts
    assert fresh == found[0].worst_shifts  # the same numbers from the same seed
