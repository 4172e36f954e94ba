"""Workers as jobs of a queueing system such as SLURM, through dask-jobqueue."""

from __future__ import annotations

import shutil
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

import yaml

from nnunet_ima.cluster.workers import Workers, tell

QUEUES = {
    "slurm": "SLURMCluster",
    "pbs": "PBSCluster",
    "sge": "SGECluster",
    "lsf": "LSFCluster",
    "oar": "OARCluster",
    "htcondor": "HTCondorCluster",
}


@contextmanager
def queued(workers: Workers, distributed: ModuleType) -> Iterator[Any]:
    """A Dask client whose workers are jobs; they are cancelled in the end.

    Raises:
        ValueError: the settings are wrong, or the queue refuses the job, which is printed.
    """
    assert workers.config is not None  # checked with the options
    settings = read_settings(workers.config, workers.queue)
    cluster = _cluster(workers, settings)
    try:
        client = distributed.Client(cluster, set_as_default=False)
        try:
            _submit(cluster, workers)
            tell(client, f"{workers.count} workers asked of {workers.queue}, which begin when it lets them")
            yield client
        finally:
            client.close()
    finally:
        cluster.close()


def read_settings(file: Path, queue: str) -> dict[str, Any]:
    """Settings of the jobs, under dask-jobqueue's names: those of its own YAML files (jobqueue: slurm: ...).

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it holds no settings of this queue.
    """
    if not file.is_file():
        msg = f"--cluster-config {file} does not exist"
        raise FileNotFoundError(msg)
    try:
        content = yaml.safe_load(file.read_text(encoding="utf-8"))
        settings = content["jobqueue"][queue]
        return {str(key).replace("-", "_"): value for key, value in settings.items()}
    except (yaml.YAMLError, UnicodeDecodeError, KeyError, TypeError, AttributeError) as error:
        msg = f"{file} must hold settings under jobqueue: {queue}: (cores, memory, ...), as dask-jobqueue wants them"
        raise ValueError(msg) from error


def imported() -> ModuleType:
    """dask-jobqueue, whose import would make Ctrl-C a good end of the whole process."""
    before = signal.getsignal(signal.SIGINT)
    import dask_jobqueue

    if threading.current_thread() is threading.main_thread():  # only that one may handle signals, or could have
        signal.signal(signal.SIGINT, before)
    found: ModuleType = dask_jobqueue
    return found


def _cluster(workers: Workers, settings: dict[str, Any]) -> Any:
    dask_jobqueue = imported()
    if workers.queue not in QUEUES:
        msg = f"--jobqueue must be one of {', '.join(QUEUES)}, got {workers.queue!r}"
        raise ValueError(msg)
    # a job may reserve several cores, but its worker does one task at a time
    single = [*settings.pop("worker_extra_args", ()), "--nthreads", "1"]
    try:
        return getattr(dask_jobqueue, QUEUES[workers.queue])(**settings, worker_extra_args=single)
    except (TypeError, ValueError) as error:
        msg = f"{workers.config}: {' '.join(str(error).split())}"
        raise ValueError(msg) from error


def _submit(cluster: Any, workers: Workers) -> None:
    from distributed import Status

    command = str(cluster.job_cls.submit_command).split()[0]
    try:
        if shutil.which(command) is None:
            msg = f"the command {command} is not found here"
            raise ValueError(msg)
        while len(cluster.worker_spec) < workers.count:
            cluster.worker_spec.update(cluster.new_worker_spec())
        cluster.sync(cluster._correct_state)  # as `scale` does later, where nobody would see that the queue refuses
    except (ValueError, RuntimeError, OSError) as error:
        for job in cluster._created:
            job.status = Status.failed  # else closing the cluster fails, too
        print(f"The job for {workers.queue}:\n{cluster.job_script()}", file=sys.stderr)
        msg = f"--jobqueue {workers.queue}: {' '.join(str(error).split())}; the job is printed above"
        raise ValueError(msg) from error
