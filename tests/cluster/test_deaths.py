"""Workers that die, in processes of their own."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from nnunet_ima.cluster.share import Task, share
from nnunet_ima.cluster.workers import DEATHS, Workers, connected

pytest.importorskip("distributed")


def die(notes: str, times: int, number: int) -> int:
    """End the process at once, the first times that it is called with this number."""
    folder = Path(notes) / str(number)
    folder.mkdir(exist_ok=True)
    begun = len(list(folder.iterdir()))
    (folder / str(begun)).touch()
    if begun < times:
        os._exit(9)
    return number


def test_the_dead_are_replaced_and_deadly_tasks_given_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join((str(Path(__file__).parent), os.environ.get("PYTHONPATH", ""))))
    before = dict(os.environ)
    deaths = (1, 0, 99, 0)
    with connected(Workers(2)) as client:
        tasks = [Task((str(tmp_path), times, number), cost=times) for number, times in enumerate(deaths)]
        done = {entry.task.arguments[2]: entry for entry in share(client, die, tasks)}
    assert {number: entry.value for number, entry in done.items()} == {0: 0, 1: 1, 2: None, 3: 3}
    assert [number for number, entry in done.items() if entry.deadly] == [2]
    assert str(done[2].error) == f"{DEATHS + 1} workers died of it, one after the other"
    # first among others, then by itself; a worker may die of other things, while the task is on its way to it
    assert 2 < len(list((tmp_path / "2").iterdir())) <= 2 * (DEATHS + 1)
    assert dict(os.environ) == before


def interrupted() -> tuple[int, float]:
    """Be interrupted while a worker is in the middle of a task; returns the worker's process and when that was."""
    process, begin = 0, 0.0
    try:
        with connected(Workers(1)) as client:
            (process,) = client.run(os.getpid).values()
            future, begin = client.submit(time.sleep, 600), time.monotonic()
            assert not future.done()
            raise KeyboardInterrupt
    except KeyboardInterrupt:
        return process, begin


def test_an_interruption_ends_workers_in_the_middle_of_a_task() -> None:
    process, begin = interrupted()
    assert time.monotonic() - begin < 60
    with pytest.raises(ProcessLookupError):
        os.kill(process, 0)
