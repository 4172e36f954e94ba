"""A new norm is one file and one line: then nnU-Net and classifiers train with it, and audits measure in it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from nnunet_ima.classification.fit import fit
from nnunet_ima.classification.settings import resolve_settings
from nnunet_ima.classification.training_data import TrainingData
from nnunet_ima.commands.attack import main
from nnunet_ima.perturbation.norms import NORMS, per_sample


class L1:
    """Sum of the absolute values of all elements."""

    name = "L1"

    def size(self, delta: Tensor) -> Tensor:
        return delta.flatten(1).abs().sum(1)

    def project(self, delta: Tensor, eps: Tensor) -> Tensor:
        """Not the nearest, but inside."""
        return delta * per_sample((eps / self.size(delta).clamp_min(1e-12)).clamp_max(1), delta)

    def steepest(self, gradient: Tensor) -> Tensor:
        """Along the hundredth of the elements with the largest gradients."""
        flat = gradient.flatten(1)
        least = flat.abs().kthvalue(flat.shape[1] - flat.shape[1] // 100, 1).values
        chosen = flat.sign() * (flat.abs() >= least[:, None])
        return (chosen / chosen.abs().sum(1, keepdim=True).clamp_min(1)).view_as(gradient)

    def random(self, like: Tensor, generator: torch.Generator) -> Tensor:
        noise = torch.randn(like.shape, generator=generator).to(like)
        return noise / per_sample(self.size(noise), noise)

    def growth(self, elements: float) -> float:
        return elements


@pytest.fixture(autouse=True)
def l1(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(NORMS, "L1", L1())


def test_it_trains_nnunet(make_trainer: Callable[..., Any]) -> None:
    trainer = make_trainer(
        epochs=1, iterations_per_epoch=2, norm="L1", eps=0.1, delta=0.05, tau=0.05, robust_interval=1
    )
    trainer.run_training()
    assert trainer.budget.norm == "L1"
    assert (Path(trainer.output_folder) / "checkpoint_final.pth").is_file()


def test_it_trains_a_classifier(tmp_path: Path) -> None:
    x, y = torch.rand(12, 1, 32, 32), torch.arange(12) % 2
    data = TrainingData(x, y, tuple(map(str, range(12))), x[:4], y[:4], ("a", "b"), "digest")
    settings = resolve_settings("adv3", "cpu", {"epochs": 1, "size": 32, "robust_steps": 1, "norm": "L1"})
    assert fit(data, settings, tmp_path / "fit").is_file()
    with pytest.raises(ValueError, match="with the norm L1 adv needs a noise level of its own"):
        resolve_settings("adv", "cpu", {"norm": "L1"})


def test_audits_measure_in_it(trained_model: Path, phantom: Any, tmp_path: Path) -> None:
    images = [str(phantom.raw / folder) for folder in ("imagesTr", "labelsTr")]
    command = ["--model", str(trained_model), "--images", images[0], "--labels", images[1], "--limit", "1"]
    command += ["--norm", "L1", "--eps", "0.05", "--eps-unit", "rms", "--attack", "pgd", "--steps", "4", "--no-tta"]
    main([*command, "--no-margins", "--check-cases", "1", "--output", str(tmp_path / "out")])
    (result,) = (tmp_path / "out" / "results").glob("*/*/pgd@0.05.json")
    found = json.loads(result.read_text())
    assert found["noise"]["norm"] == "L1"
    assert found["noise"]["size"] == pytest.approx(found["units"]["l1"], rel=1e-4)  # all of it is used
    assert found["dice"] <= found["clean_dice"]
    verdicts = json.loads((tmp_path / "out" / "summary.json").read_text())["verdicts"]
    told = {row["check"]: row for row in verdicts}
    assert told["the noise stays inside its bound"]["result"] == "passed"
    assert told["no black-box attack beats the gradient"]["figure"].startswith("SPSA, 387 queries")
