"""A trained model of the phantom and two of its cases."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from nnunet_ima.inference.cases import Case, dataset_cases
from nnunet_ima.inference.model import open_model
from nnunet_ima.inference.pipeline import Pipeline
from nnunet_ima.segmentation.predictions import Predictions


@pytest.fixture(scope="module")
def pipeline(trained_model: Path) -> Pipeline:
    return Pipeline(open_model(trained_model), mirroring=False)


@pytest.fixture(scope="module")
def cases(phantom) -> list[Case]:
    return dataset_cases(phantom.name, ["0"], allow_training_cases=True)[:2]


@pytest.fixture
def predicted(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The cases that nnU-Net predicts, one entry for each prediction."""
    found: list[str] = []
    logits = Predictions.logits

    def counted(self: Predictions, image: Any, volume: Any) -> Any:
        found.append(volume.case.name)
        return logits(self, image, volume)

    monkeypatch.setattr(Predictions, "logits", counted)
    return found
