"""Tasks among workers in this process: order, failures, deaths, reports."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest

from nnunet_ima.cluster.share import Done, Task, UnfitWorkerError, UnwantedError, check_wanted, report, share

distributed = pytest.importorskip("distributed")


@pytest.fixture(scope="module")
def client() -> Iterator[Any]:
    """Two workers, threads of this process."""
    with (
        distributed.LocalCluster(n_workers=2, threads_per_worker=1, processes=False, dashboard_address=None) as cluster,
        distributed.Client(cluster, set_as_default=False) as client,
    ):
        yield client


SEEN: list[Any] = []  # what tasks have noted, which are functions of this module in threads of this process
ENDED = threading.Event()


@pytest.fixture(autouse=True)
def nothing_seen() -> None:
    SEEN.clear()
    ENDED.clear()


def here() -> str:
    return str(distributed.get_worker().address)


def square(number: int) -> int:
    SEEN.append(number)
    time.sleep(0.02)
    return number**2


def test_the_longest_is_always_the_next(client: Any) -> None:
    done = list(share(client, square, [Task((number,), cost=number) for number in (3, 1, 5, 2, 4)]))
    assert sorted(entry.value for entry in done) == [1, 4, 9, 16, 25]
    assert set(SEEN[:2]) == {5, 4}
    assert SEEN[2:] == [3, 2, 1]


def alone() -> None:
    assert here() not in SEEN
    SEEN.append(here())
    time.sleep(0.05)
    SEEN.remove(here())


def test_a_worker_does_one_task_at_a_time(client: Any) -> None:
    assert [entry.error for entry in share(client, alone, [Task(())] * 6)] == [None] * 6


def broken() -> None:
    SEEN.append(here())
    raise RuntimeError("CUDA error")


def test_an_error_is_tried_on_another_worker_and_then_told(client: Any) -> None:
    (done,) = share(client, broken, [Task(())])
    assert repr(done.error) == "RuntimeError('CUDA error')"
    assert not done.deadly
    assert len(set(SEEN)) == len(SEEN) == 2


def broken_at_first(number: int) -> int:
    SEEN.append(here())
    if here() == SEEN[0]:
        raise RuntimeError("this device is broken")
    return number


def test_a_broken_worker_costs_no_result(client: Any) -> None:
    done = list(share(client, broken_at_first, [Task((number,)) for number in range(5)]))
    assert sorted(entry.value for entry in done) == [0, 1, 2, 3, 4]


def unfit() -> None:
    raise UnfitWorkerError("the worker has no folder")


def test_an_unfit_worker_ends_it_all_in_a_sentence(client: Any) -> None:
    with pytest.raises(ValueError, match="the worker has no folder"):
        list(share(client, unfit, [Task(())] * 5))


def test_reports_arrive_in_this_thread(client: Any) -> None:
    told: list[Any] = []
    for _ in share(client, report, [Task((1,)), Task((2,))], lambda what: told.append((what, threading.get_ident()))):
        time.sleep(0.1)
    assert sorted(told) == [(1, threading.get_ident()), (2, threading.get_ident())]
    report("nobody listens here")


def endless() -> None:
    report("begun")
    try:
        for _ in range(500):
            time.sleep(0.02)
            check_wanted()
    except UnwantedError:
        ENDED.set()
        raise


def test_a_task_that_nobody_waits_for_ends(client: Any) -> None:
    def interrupt(_: Any) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        list(share(client, endless, [Task(())], interrupt))
    assert ENDED.wait(8)
    check_wanted()  # outside of a task nothing happens


def test_workers_with_several_threads_are_refused() -> None:
    with (
        distributed.LocalCluster(n_workers=1, threads_per_worker=2, processes=False, dashboard_address=None) as cluster,
        distributed.Client(cluster, set_as_default=False) as client,
        pytest.raises(ValueError, match=r"has 2 threads; start workers with --nthreads 1"),
    ):
        list(share(client, here, [Task(())]))


def test_workers_may_come_later(client: Any) -> None:
    with (
        distributed.LocalCluster(n_workers=0, threads_per_worker=1, processes=False, dashboard_address=None) as cluster,
        distributed.Client(cluster, set_as_default=False) as late,
    ):
        threading.Timer(0.5, lambda: cluster.scale(1)).start()
        (done,) = share(late, here, [Task(())])
    assert isinstance(done, Done)
    assert done.error is None
