"""Two processes that train together keep one table of margins."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest
import torch.multiprocessing as mp
from trainer_fixtures import make_tiny_plans

sys.path.insert(0, str(Path(__file__).parent))
import ddp_worker  # spawned processes import it by this name

METHODS = ("ima", "mma", "trades")


@pytest.fixture(scope="module")
def ranks(phantom, tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], dict[str, Any]]:
    """What two processes have come to by each method; they are started once, as that takes longer than a training."""
    home = tmp_path_factory.mktemp("ddp")
    plans = {
        method: make_tiny_plans(phantom, method) | {"continue_training": False, "plans_name": f"nnUNetPlans_{method}"}
        for method in METHODS
    }
    dataset_json = json.loads((phantom.preprocessed / "dataset.json").read_text())
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("nnUNet_results", str(home))
        patch.setenv("PYTHONPATH", str(Path(__file__).parent))
        mp.spawn(ddp_worker.run, (str(home / "rendezvous"), plans, dataset_json, str(home)), nprocs=2)
    first, second = (json.loads((home / f"rank{rank}.json").read_text()) for rank in (0, 1))
    return first, second


@pytest.mark.parametrize("method", METHODS)
def test_margins_and_weights_are_equal_on_both_ranks(method: str, ranks: tuple[dict[str, Any], dict[str, Any]]) -> None:
    first, second = (results[method] for results in ranks)
    assert first == second
    assert method == "trades" or len(set(first["margins"].values())) > 1
    assert 0 < first["attacked"] <= 1
