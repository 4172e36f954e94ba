"""Two processes that train together keep one table of margins."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
import torch.multiprocessing as mp

sys.path.insert(0, str(Path(__file__).parent))
import ddp_worker  # spawned processes import it by this name


@pytest.mark.parametrize("method", ["ima", "mma", "trades"])
def test_margins_and_weights_are_equal_on_both_ranks(
    method: str, phantom, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tiny_plans
) -> None:
    monkeypatch.setenv("nnUNet_results", str(tmp_path))
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parent))
    plans = tiny_plans(phantom, method) | {"continue_training": False}
    dataset_json = json.loads((phantom.preprocessed / "dataset.json").read_text())
    mp.spawn(ddp_worker.run, (str(tmp_path / "rendezvous"), method, plans, dataset_json, str(tmp_path)), nprocs=2)
    first, second = (json.loads((tmp_path / f"rank{rank}.json").read_text()) for rank in (0, 1))
    assert first == second
    assert method == "trades" or len(set(first["margins"].values())) > 1
    assert 0 < first["attacked"] <= 1
