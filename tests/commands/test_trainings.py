"""Trainings side by side, in workers of this process; nnU-Net's command is not run."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from nnunet_ima.commands import _trainings
from nnunet_ima.commands._trainings import Training, only_gpu, train_apart

distributed = pytest.importorskip("distributed")


@pytest.fixture
def client() -> Iterator[Any]:
    with (
        distributed.LocalCluster(n_workers=2, threads_per_worker=1, processes=False, dashboard_address=None) as cluster,
        distributed.Client(cluster, set_as_default=False) as client,
    ):
        yield client


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, empty_folders: Any) -> list[dict[str, Any]]:
    """The commands that are run, in place of which a checkpoint is written; a training called "bad" fails."""
    found: list[dict[str, Any]] = []

    def follow(command: Sequence[str], log: Path, told: Callable[[str], object], **options: Any) -> None:
        found.append({"command": list(command), **options})
        told("Epoch time: 3 s")
        if log.stem == "bad":
            raise ValueError("it failed; see bad.log")
        (log.parent / log.stem / "checkpoint_final.pth").write_text("trained")

    monkeypatch.setattr(_trainings, "follow", follow)
    return found


def training(home: Path, label: str) -> Training:
    (home / label).mkdir()
    return Training(label, home / label, ("4", "2d", "0", "-p", label), 3, home / f"{label}.log")


def test_all_are_trained_and_none_twice(client: Any, run: list[dict[str, Any]], tmp_path: Path) -> None:
    trainings = [training(tmp_path, label) for label in ("ima", "adv", "te")]
    (tmp_path / "adv" / "checkpoint_latest.pth").write_text("half")
    (tmp_path / "te" / "checkpoint_final.pth").write_text("trained")
    train_apart(client, trainings, "cpu")
    assert all(entry.done for entry in trainings)
    words = {tuple(entry["command"][3:]) for entry in run}
    assert words == {
        ("nnUNetv2_train", "4", "2d", "0", "-p", "ima", "-device", "cpu"),
        ("nnUNetv2_train", "4", "2d", "0", "-p", "adv", "--c", "-device", "cpu"),  # it goes on
    }
    assert all(entry["env"]["nnUNet_results"] and entry["start_new_session"] for entry in run)


def test_one_that_fails_is_told_when_the_others_have_ended(
    client: Any, run: list[dict[str, Any]], tmp_path: Path
) -> None:
    trainings = [training(tmp_path, label) for label in ("bad", "good", "better")]
    with pytest.raises(ValueError, match=r"bad: it failed; see bad.log"):
        train_apart(client, trainings, "cpu")
    assert [entry.done for entry in trainings] == [False, True, True]


def test_each_has_a_gpu_of_its_own(
    client: Any, run: list[dict[str, Any]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "2,5")
    train_apart(client, [training(tmp_path, label) for label in ("ima", "adv")], "cuda")
    assert sorted(entry["env"]["CUDA_VISIBLE_DEVICES"] for entry in run) == ["2", "5"]
    assert all(entry["command"][-2:] == ["-device", "cuda"] for entry in run)


def test_processes_see_the_gpu_that_was_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,6")
    with only_gpu("1"):
        assert os.environ["CUDA_VISIBLE_DEVICES"] == "6"
    assert os.environ["CUDA_VISIBLE_DEVICES"] == "4,6"
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES")
    with only_gpu("1"):
        assert os.environ["CUDA_VISIBLE_DEVICES"] == "1"
    with only_gpu(""):
        assert "CUDA_VISIBLE_DEVICES" not in os.environ
