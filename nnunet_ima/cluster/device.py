"""The device of a worker: where several are seen, each worker has its own."""

from __future__ import annotations

import re


def worker_device(wanted: str, name: object, seen: int) -> str:
    """Return the device of a worker.

    >>> worker_device("cuda", 3, seen=4)
    'cuda:3'
    >>> worker_device("cuda", "SLURMCluster-5-1", seen=2)
    'cuda:1'

    Args:
        wanted: of all of them; "cuda" is shared out, "cuda:1" and "cpu" are meant as they are.
        name: of the worker, which ends in its number; without one it gets the first device.
        seen: CUDA devices that the worker sees.
    """
    if wanted != "cuda" or seen < 2:
        return wanted
    number = re.search(r"\d+$", str(name))
    return f"cuda:{int(number[0]) % seen if number else 0}"
