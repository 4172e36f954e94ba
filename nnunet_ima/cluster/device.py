"""The device of a worker: where several are seen, each worker has its own."""

from __future__ import annotations

import re

from nnunet_ima.cluster.share import UnfitWorkerError


def worker_device(wanted: str, name: object, seen: int) -> str:
    """Return the device of a worker, which is chosen by the number at the end of its name.

    >>> worker_device("cuda", 3, seen=4)
    'cuda:3'
    >>> worker_device("cuda", "SLURMCluster-5-1", seen=2)
    'cuda:1'

    Args:
        wanted: of all of them; "cuda" is shared out, "cuda:1" and "cpu" are meant as they are.
        name: of the worker.
        seen: CUDA devices that the worker sees.

    Raises:
        UnfitWorkerError: it sees several, and its name says nothing; by default it is an address, which ends in a port.
    """
    if wanted != "cuda" or seen < 2:
        return wanted
    number = None if "://" in str(name) else re.search(r"\d+$", str(name))
    if number is None:
        msg = (
            f"the worker {name} sees {seen} GPUs and has no number to choose one by; start each with one of them alone "
            "(CUDA_VISIBLE_DEVICES=0 dask worker …), or with a number (--name 0)"
        )
        raise UnfitWorkerError(msg)
    return f"cuda:{int(number[0]) % seen}"
