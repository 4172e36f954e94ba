"""A new method is one file and one line: then it trains 2D and 3D nnU-Net, and a classifier."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from nnunet_ima import _methods
from nnunet_ima.classification.fit import fit
from nnunet_ima.classification.settings import resolve_settings
from nnunet_ima.classification.training_data import TrainingData
from nnunet_ima.training import trainers

TOY = '''"""White noise."""

from dataclasses import dataclass

from nnunet_ima.methods.base import Method, Noise, Step, passes
from nnunet_ima.perturbation.norms import per_sample


@dataclass(kw_only=True)
class Toy(Method):
    """Mean loss of samples under random noise."""

    eps: Noise

    def step(self, learner):
        noise = self.random_start(learner, self.radius(learner.x, self.eps))
        loss = learner(learner.x + noise).losses.mean()
        learner.backward(loss)
        return Step(loss.detach(), passes(len(learner.x)))
'''


@pytest.fixture
def toy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "toy_method.py").write_text(TOY)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setitem(_methods.METHODS, "toy", ("toy_method:Toy", "nnUNetTrainerToy"))


@pytest.mark.usefixtures("toy")
@pytest.mark.parametrize("configuration", ["2d", "3d_fullres"])
def test_it_trains_nnunet(make_trainer: Callable[..., Any], configuration: str) -> None:
    trainer = make_trainer(configuration, trainer=trainers.nnUNetTrainerToy, epochs=1, iterations_per_epoch=1, eps=0.3)
    trainer.run_training()
    assert (Path(trainer.output_folder) / "checkpoint_final.pth").is_file()
    assert trainer.logger.get_value("ima_forward", step=-1) == 1


@pytest.mark.usefixtures("toy")
def test_it_trains_a_classifier(tmp_path: Path) -> None:
    x, y = torch.rand(12, 1, 32, 32), torch.arange(12) % 2
    names = tuple(f"{number}" for number in range(12))
    data = TrainingData(x, y, names, x[:4], y[:4], ("a", "b"), "digest")
    settings = resolve_settings("toy3", "cpu", {"epochs": 1, "size": 32, "robust_steps": 1})
    assert fit(data, settings, tmp_path / "fit").is_file()
