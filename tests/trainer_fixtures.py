"""Fixtures: trainers on tiny phantoms, with tiny networks."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from nnunetv2.training.logging.nnunet_logger import LocalLogger
from torch import Tensor

from nnunet_ima.methods.base import Outcome
from nnunet_ima.report import progress
from nnunet_ima.training import robust
from nnunet_ima.training.learner import SegmentationLearner
from nnunet_ima.training.robust import RobustTrainer
from nnunet_ima.training.settings import change_settings
from nnunet_ima.training.trainers import nnUNetTrainerIMA

# A fresh network predicts foreground almost at random; with a low τ it counts as right, and is attacked.
EASY = {"tau": 0.05, "epochs": 2, "iterations_per_epoch": 2, "robust_steps": 2}
MARGINS = {"eps": 0.6, "delta": 0.2}
TINY = {"2d": (2, 8), "3d_fullres": (2, 4), "3d_lowres": (2, 4), "3d_cascade_fullres": (2, 4)}

MakeTrainer = Callable[..., RobustTrainer]


def make_tiny_plans(dataset, method: str = "ima", **settings: Any) -> dict[str, Any]:
    """Plans of a phantom with features small enough for a test, a cascade, and the given settings."""
    plans = json.loads((dataset.preprocessed / "nnUNetPlans.json").read_text())
    configurations = plans["configurations"]
    fullres = configurations["3d_fullres"]
    configurations["3d_lowres"] = copy.deepcopy(fullres) | {"next_stage": "3d_cascade_fullres"}
    configurations["3d_cascade_fullres"] = copy.deepcopy(fullres) | {"previous_stage": "3d_lowres"}
    for name, (batch_size, features) in TINY.items():
        configurations[name]["batch_size"] = batch_size * (2 if name == "2d" else 1)
        kwargs = configurations[name]["architecture"]["arch_kwargs"]
        kwargs["features_per_stage"] = [features] * len(kwargs["features_per_stage"])
    if method == "mma":  # it learns from boundaries alone, which are far away on networks that know nothing
        settings = {"eps": 5.0, **settings}
    return change_settings({**plans, "ima": MARGINS, "schedule": EASY}, method, settings)


@pytest.fixture
def tiny_plans() -> Callable[..., dict[str, Any]]:
    return make_tiny_plans


@pytest.fixture
def make_trainer(phantom, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> MakeTrainer:
    """A function that builds a trainer with results in a folder of the test's own; it draws nothing, for speed."""
    monkeypatch.setenv("nnUNet_results", str(tmp_path / "results"))
    monkeypatch.setattr(progress, "plot_progress", lambda *args, **kwargs: None)
    monkeypatch.setattr(LocalLogger, "plot_progress_png", lambda *args: None)

    def make(
        configuration: str = "2d",
        dataset=phantom,
        trainer: type = nnUNetTrainerIMA,
        resume: bool = False,
        plans_name: str = "nnUNetPlans",
        **settings: Any,
    ) -> RobustTrainer:
        plans = make_tiny_plans(dataset, trainer.method_name, **settings) | {
            "continue_training": resume,
            "plans_name": plans_name,
        }
        dataset_json = json.loads((dataset.preprocessed / "dataset.json").read_text())
        return trainer(plans, configuration, 0, dataset_json, torch.device("cpu"))

    return make


class Learning(NamedTuple):
    """Noisy samples that a network has learnt from, and the clean ones."""

    clean: Tensor
    noisy: Tensor
    names: list


@pytest.fixture
def learnt(monkeypatch: pytest.MonkeyPatch) -> list[Learning]:
    """What networks learn from in this test, but for clean samples."""
    seen: list[Learning] = []

    class Watched(SegmentationLearner):
        def __call__(self, x: Tensor, rows: Tensor | None = None) -> Outcome:
            if x is not self.x:
                chosen = torch.arange(len(x)) if rows is None else rows
                names = [self.names[i] for i in chosen.tolist()]
                seen.append(Learning(self.x[chosen].detach().clone(), x.detach().clone(), names))
            return super().__call__(x, rows)

    monkeypatch.setattr(robust, "SegmentationLearner", Watched)
    return seen


def check_run(trainer: RobustTrainer, learnt: list[Learning], attacked: bool = True) -> None:
    """Train; the weights move, and all noise is inside the ball."""
    if not trainer.was_initialized:
        trainer.initialize()
    before = [p.detach().clone() for p in trainer.network.parameters()]
    trainer.run_training()
    assert any(not torch.equal(a, b) for a, b in zip(before, trainer.network.parameters(), strict=True))
    assert all(p.isfinite().all() for p in trainer.network.parameters())
    if attacked:
        assert learnt, "no sample was attacked, so that this run says nothing"
    room = 1.05 if trainer.method_name == "mma" else 1.0  # it looks for margins a little beyond the largest
    for clean, noisy, names in learnt:
        sizes = trainer.method.run.norm.size(noisy - clean)
        # radii may have moved since, but never beyond the largest margin
        assert (sizes <= room * trainer.budget.effective(trainer.settings.options["eps"]) * (1 + 1e-5)).all()
        assert len(names) == len(clean)
