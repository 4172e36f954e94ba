"""A trained model of the phantom and two of its cases."""

from __future__ import annotations

from pathlib import Path

import pytest

from nnunet_ima.inference.cases import Case, dataset_cases
from nnunet_ima.inference.model import open_model
from nnunet_ima.inference.pipeline import Pipeline


@pytest.fixture(scope="module")
def pipeline(trained_model: Path) -> Pipeline:
    return Pipeline(open_model(trained_model), mirroring=False)


@pytest.fixture(scope="module")
def cases(phantom) -> list[Case]:
    return dataset_cases(phantom.name, ["0"], allow_training_cases=True)[:2]
