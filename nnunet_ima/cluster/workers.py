"""Where workers come from: processes of this machine, a running Dask cluster, or the jobs of a queue."""

from __future__ import annotations

import logging
import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

DEATHS = 2  # workers that a task may take with it before it is given up
PATIENCE = 20  # seconds to reach a scheduler

LOCAL = {
    "distributed.scheduler.allowed-failures": DEATHS,
    "distributed.worker.memory.terminate": False,  # the system knows when memory runs out
    "distributed.admin.tick.limit": "1h",  # no remarks on workers that are busy
}


@dataclass(frozen=True)
class Workers:
    """Which workers are wanted.

    Attributes:
        count: of processes of this machine, or of workers that a queue is asked for.
        scheduler: address of a running Dask cluster.
        queue: name of a queueing system, such as "slurm".
        config: YAML file with what the queue needs.
    """

    count: int = 0
    scheduler: str = ""
    queue: str = ""
    config: Path | None = None

    def __bool__(self) -> bool:
        return bool(self.count or self.scheduler or self.queue)

    def check(self) -> None:
        """Refuse what cannot be.

        Raises:
            ValueError: options contradict each other, or Dask is not installed.
        """
        if self.count < 0:
            msg = f"--workers must be at least 0, got {self.count}"
            raise ValueError(msg)
        if self.scheduler and (self.count or self.queue):
            msg = "--scheduler joins a cluster that has workers; leave --workers and --jobqueue out"
            raise ValueError(msg)
        if bool(self.queue) != (self.config is not None):
            msg = "--jobqueue and --cluster-config belong together: the file tells what each job needs"
            raise ValueError(msg)
        if self.queue and not self.count:
            msg = "--jobqueue needs --workers: how many workers the queue is asked for"
            raise ValueError(msg)
        if self:
            dask_distributed()


def dask_distributed() -> ModuleType:
    """Dask's package, which takes a second to load.

    Raises:
        ValueError: it is not installed.
    """
    try:
        import distributed
    except ModuleNotFoundError as error:
        msg = (
            "--workers, --scheduler and --jobqueue need Dask, which is not installed: pip install 'nnunet-ima[cluster]'"
        )
        raise ValueError(msg) from error
    found: ModuleType = distributed
    return found


@contextmanager
def connected(workers: Workers) -> Iterator[Any]:
    """A Dask client of the workers, which end with it at once, even in the middle of a task, if they began with it.

    Raises:
        ValueError: the cluster cannot be reached, or the queue not be asked.
    """
    distributed = dask_distributed()
    import dask

    before = dict(os.environ)  # Dask prepares it for the processes that it starts
    try:
        with dask.config.set(LOCAL):
            if workers.scheduler:
                with _joined(workers.scheduler, distributed) as client:
                    yield client
            elif workers.queue:
                from nnunet_ima.cluster.jobqueue import queued

                with queued(workers, distributed) as client:
                    yield client
            else:
                with _local(workers.count, distributed) as client:
                    yield client
    finally:
        for name in os.environ.keys() - before.keys():
            del os.environ[name]
        os.environ.update(before)


def tell(client: Any, text: str) -> None:
    """Say on the screen which workers there are, and where they can be watched."""
    print(f"{text}; dashboard {client.dashboard_link}", file=sys.stderr)


@contextmanager
def _joined(address: str, distributed: ModuleType) -> Iterator[Any]:
    try:
        client = distributed.Client(address, set_as_default=False, timeout=PATIENCE)
    except (OSError, ValueError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        msg = f"--scheduler {address} cannot be reached ({reason}); start one with: dask scheduler"
        raise ValueError(msg) from error
    try:
        if not client.nthreads():
            msg = f"--scheduler {address} has no workers; start some with: dask worker {address} --nthreads 1"
            raise ValueError(msg)
        tell(client, f"{len(client.nthreads())} workers of {address}")
        yield client
    finally:
        client.close()  # what it has submitted is dropped


@contextmanager
def _local(count: int, distributed: ModuleType) -> Iterator[Any]:
    cluster = distributed.LocalCluster(
        n_workers=count,
        threads_per_worker=1,
        processes=True,
        memory_limit=0,
        host="127.0.0.1",
        dashboard_address="127.0.0.1:0",
        silence_logs=logging.CRITICAL,  # a death is told as a failed task
    )
    client = distributed.Client(cluster, set_as_default=False)
    try:
        client.register_plugin(_deaf(distributed))
        tell(client, f"{count} workers on this machine")
        yield client
    except BaseException:
        _kill(cluster)
        raise
    finally:
        client.close()
        cluster.close()


def _deaf(distributed: ModuleType) -> Any:
    """Lets workers ignore Ctrl-C, which reaches all processes of a terminal: who started them ends them."""

    class Deaf(distributed.WorkerPlugin):  # type: ignore[misc, name-defined]
        def setup(self, worker: Any) -> None:
            signal.signal(signal.SIGINT, signal.SIG_IGN)

    return Deaf()


def _kill(cluster: Any) -> None:
    """End the processes of local workers: what they have measured is stored, and asking would wait for their tasks."""
    for nanny in cluster.workers.values():
        nanny.auto_restart = False
        if nanny.pid:
            with suppress(ProcessLookupError):
                os.kill(nanny.pid, signal.SIGKILL if os.name == "posix" else signal.SIGTERM)
