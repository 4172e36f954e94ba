"""Which workers are wanted, what is refused, and the device of each."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from nnunet_ima.cluster.device import worker_device
from nnunet_ima.cluster.share import UnfitWorkerError
from nnunet_ima.cluster.workers import Workers, connected


@pytest.mark.parametrize(
    ("workers", "message"),
    [
        (Workers(-1), "--workers must be at least 0, got -1"),
        (Workers(2, scheduler="tcp://host:1"), "--scheduler joins a cluster that has workers"),
        (Workers(2, queue="slurm"), "--jobqueue and --cluster-config belong together"),
        (Workers(config=Path("file")), "--jobqueue and --cluster-config belong together"),
        (Workers(queue="slurm", config=Path("file")), "--jobqueue needs --workers"),
    ],
)
def test_contradictions_are_refused(workers: Workers, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        workers.check()


def test_without_dask_the_way_out_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "distributed", None)
    with pytest.raises(ValueError, match=r"pip install 'nnunet-ima\[cluster\]'"):
        Workers(2).check()
    Workers().check()  # who asks for none needs none


def test_a_scheduler_that_is_not_there_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("nnunet_ima.cluster.workers.PATIENCE", 0.5)
    with (
        pytest.raises(ValueError, match=r"--scheduler tcp://127.0.0.1:9 cannot be reached .*: dask scheduler"),
        connected(Workers(scheduler="tcp://127.0.0.1:9")),
    ):
        pass


@pytest.mark.parametrize(
    ("wanted", "name", "seen", "device"),
    [
        ("cpu", 3, 4, "cpu"),
        ("cuda", 3, 4, "cuda:3"),
        ("cuda", 5, 4, "cuda:1"),
        ("cuda", 5, 1, "cuda"),
        ("cuda:2", 0, 4, "cuda:2"),
        ("cuda", "SLURMCluster-2-1", 2, "cuda:1"),
        ("cuda", "tcp://10.0.0.1:41583", 1, "cuda"),
    ],
)
def test_each_worker_has_a_device_of_its_own(wanted: str, name: object, seen: int, device: str) -> None:
    assert worker_device(wanted, name, seen) == device


@pytest.mark.parametrize("name", ["own name", "tcp://10.0.0.1:41583"])
def test_workers_without_a_number_do_not_share_a_gpu_unseen(name: str) -> None:
    """A port is none: those that are free tend to be odd."""
    with pytest.raises(UnfitWorkerError, match=r"sees 2 GPUs .*\(CUDA_VISIBLE_DEVICES=0 dask worker"):
        worker_device("cuda", name, 2)
