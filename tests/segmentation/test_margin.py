"""The margin of a case, where the network's grid and that of the raw image tell different Dice."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from bare_settings import BARE

from nnunet_ima.evidence.records import Margin
from nnunet_ima.evidence.store import Store
from nnunet_ima.inference.cases import Case
from nnunet_ima.inference.pipeline import Pipeline
from nnunet_ima.inference.volume import read_volume
from nnunet_ima.inference.volumes import Volumes
from nnunet_ima.segmentation import target
from nnunet_ima.segmentation.run import run_audit

SETTINGS = replace(BARE, attacks=("pgd",), eps=(1.0,), steps=6, margins=True)


def margin(pipeline: Pipeline, case: Case, folder: Path) -> Margin:
    store = Store(folder, {"settings": SETTINGS.question()}, {})
    (found,) = run_audit({"m": pipeline}, [case], SETTINGS, store, probes=0).margins
    return found


def test_another_dice_on_the_raw_grid_does_not_undo_the_search(
    pipeline: Pipeline, cases: list[Case], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Attacks end just below what they look for; the raw grid, which has the last word, may tell more or less there."""
    expected, dice = margin(pipeline, cases[0], tmp_path / "alike"), target.mean_dice_present
    assert expected.eps is not None
    for less in (-0.3, -0.02, 0.02, 0.1, 0.3):
        monkeypatch.setattr(
            target,
            "mean_dice_present",
            lambda logits, y, labels, less=less: (dice(logits, y, labels) - less).clamp(0, 1),
        )
        found = margin(pipeline, cases[0], tmp_path / str(less))
        assert found.eps == pytest.approx(expected.eps, abs=2**-5)  # five halvings of the bracket from 0 to 1
        assert found.dice < SETTINGS.threshold


def test_a_case_whose_structures_vanish_on_the_network_s_grid_is_not_told_as_robust(
    pipeline: Pipeline, cases: list[Case], tmp_path: Path
) -> None:
    class Vanishing(Volumes):
        def __call__(self, case: Case, model: Any) -> Any:
            volume = read_volume(case, model)
            return replace(volume, target=torch.zeros_like(volume.target)) if case == cases[0] else volume

    store = Store(tmp_path, {"settings": SETTINGS.question()}, {})
    settings = replace(SETTINGS, margins=False)
    found = run_audit({"m": pipeline}, cases, settings, store, probes=0, volumes=Vanishing())
    assert [failure.case for failure in found.failed] == [cases[0].name]
    assert "its structures vanish at the spacing of m's network" in found.failed[0].error
    assert {record.case for record in found.records} == {cases[1].name}
