"""Tasks shared out among workers: the longest first, each worker one at a time, failures tried on another worker."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from queue import Empty, SimpleQueue
from time import monotonic
from typing import Any

from nnunet_ima.cluster.workers import DEATHS, dask_distributed

TOPIC = "nnunet-ima"
TRIES = 2  # of a task that raises errors, each on another worker
LOOK = 1.0  # seconds between two looks for workers that came or went


class UnfitWorkerError(ValueError):
    """A worker cannot do its work at all; none of its tasks would succeed."""


@dataclass(frozen=True)
class Task:
    """A call for a worker.

    Attributes:
        arguments: of the function.
        cost: in any unit that is the same for all.
    """

    arguments: tuple[Any, ...]
    cost: float = 1.0


@dataclass(frozen=True)
class Done:
    """What became of a task.

    Attributes:
        task: the task.
        value: what its function has returned.
        error: why there is none.
        deadly: its workers died.
    """

    task: Task
    value: Any = None
    error: BaseException | None = None
    deadly: bool = False


def share(
    client: Any, function: Callable[..., Any], tasks: Sequence[Task], told: Callable[[Any], None] = lambda _: None
) -> Iterator[Done]:
    """Let workers call a function with the arguments of each task; yields tasks as they end.

    As many tasks are on their way as there are workers, so that the longest of those left is always the next. Where a
    worker dies, Dask blames all tasks that were on their way to it: a task whose workers have died is tried once more,
    by itself, when the others are done.

    Args:
        client: of Dask.
        function: one that workers can import.
        tasks: in any order.
        told: gets what workers `report`, in this thread.

    Raises:
        UnfitWorkerError: raised by a task; nothing more is begun.
        ValueError: the cluster is gone.
    """
    yield from _Sharing(client, function, told, sorted(tasks, key=lambda task: task.cost)).run()


@dataclass
class _Sharing:
    """Tasks that wait, that are on their way to workers, and that are blamed for a worker's death."""

    client: Any
    function: Callable[..., Any]
    told: Callable[[Any], None]
    left: list[Task]
    running: dict[Any, tuple[Task, list[str]]] = field(default_factory=dict)
    suspects: list[Task] = field(default_factory=list)
    alone: bool = False  # suspects are being tried by themselves
    happened: SimpleQueue[tuple[str, Any]] = field(default_factory=SimpleQueue)

    def run(self) -> Iterator[Done]:
        """Share everything out; whoever stops early lets go of what is running."""
        self.client.subscribe_topic(TOPIC, lambda event: self.happened.put(("told", event[1])))
        try:
            workers, looked = len(self.client.nthreads()), monotonic()
            while self.left or self.running or self.suspects:
                self.fill(workers)
                ended = self.hear(_news(self.happened))
                for future, value in zip(ended, _values(self.client, ended), strict=True):
                    done = self.judge(future, value)
                    if done is not None:
                        yield done
                if monotonic() - looked > LOOK:
                    workers, looked = len(self.client.nthreads()), monotonic()
            self.hear(_waiting(self.happened))
        finally:
            self.client.unsubscribe_topic(TOPIC)
            self.client.cancel(list(self.running), force=True)

    def fill(self, workers: int) -> None:
        """Begin as many tasks as there are workers; a suspect only when nothing else runs."""
        while self.left and len(self.running) < workers:
            self.begin(self.left.pop(), [])
        if self.suspects and not (self.left or self.running):
            self.alone = True
            self.begin(self.suspects.pop(), [])

    def begin(self, task: Task, avoided: list[str]) -> None:
        """Send a task to a worker, and rather not to those on which it has failed."""
        others = [address for address in self.client.nthreads() if address not in avoided] if avoided else []
        future = self.client.submit(
            _named, self.function, *task.arguments, pure=False, workers=others or None, allow_other_workers=bool(others)
        )
        self.running[future] = task, avoided
        future.add_done_callback(lambda future: self.happened.put(("done", future)))

    def hear(self, news: Sequence[tuple[str, Any]]) -> list[Any]:
        """Pass on what workers report; returns the futures that have ended."""
        for kind, what in news:
            if kind == "told":
                self.told(what)
        return [what for kind, what in news if kind == "done" and what in self.running]

    def judge(self, future: Any, value: _Value | None) -> Done | None:
        """What has become of a task; None where it is tried once more."""
        task, avoided = self.running.pop(future)
        done, at = _outcome(task, future, value)
        if done.deadly and not self.alone:
            self.suspects.append(task)
            return None
        if done.error is None or done.deadly or len(avoided) + 1 >= TRIES:
            return done
        self.begin(task, [*avoided, at])
        return None


def report(what: Any) -> None:
    """Tell the one who shares tasks something (text, numbers) from inside of a task; elsewhere nobody listens."""
    distributed = dask_distributed()
    try:
        distributed.get_worker().log_event(TOPIC, what)
    except ValueError:  # there is no worker here
        return


class UnwantedError(Exception):
    """Nobody waits for this task any more."""


def check_wanted() -> None:
    """End a task that nobody waits for any more, because who shared it out was stopped; elsewhere nothing happens.

    Raises:
        UnwantedError: it should end.
    """
    distributed = dask_distributed()
    try:
        worker = distributed.get_worker()
    except ValueError:  # there is no worker here
        return
    key = getattr(distributed.worker.thread_state, "key", None)
    task = worker.state.tasks.get(key)
    if key is not None and (task is None or task.state == "cancelled"):
        raise UnwantedError


@dataclass(frozen=True)
class _Value:
    """A value, or the error in its place, and the worker that it comes from."""

    value: Any
    error: Exception | None
    worker: str


def _named(function: Callable[..., Any], *arguments: Any) -> _Value:
    worker = dask_distributed().get_worker()
    if worker.state.nthreads != 1:
        msg = f"the worker {worker.address} has {worker.state.nthreads} threads; start workers with --nthreads 1"
        return _Value(None, UnfitWorkerError(msg), worker.address)
    try:
        return _Value(function(*arguments), None, worker.address)
    except Exception as error:  # which one it is, the other side decides
        return _Value(None, error, worker.address)


def _news(happened: SimpleQueue[tuple[str, Any]]) -> list[tuple[str, Any]]:
    """Everything that has happened, after a while at most nothing."""
    news = []
    with suppress(Empty):
        news.append(happened.get(timeout=LOOK))
    return [*news, *_waiting(happened)]


def _waiting(happened: SimpleQueue[tuple[str, Any]]) -> list[tuple[str, Any]]:
    """Everything that has happened by now."""
    news = []
    with suppress(Empty):
        while True:
            news.append(happened.get_nowait())
    return news


def _values(client: Any, futures: Sequence[Any]) -> list[_Value | None]:
    """What tasks have returned, fetched at once; None for one that has failed."""
    finished = {number: future for number, future in enumerate(futures) if future.status == "finished"}
    found = client.gather(finished, errors="skip") if finished else {}
    return [found.get(number) for number in range(len(futures))]


def _outcome(task: Task, future: Any, found: _Value | None) -> tuple[Done, str]:
    """What became of a task, and the worker that it was at."""
    if future.status in ("cancelled", "lost"):
        msg = "the Dask cluster is gone; what was measured is stored: start the same command again"
        raise ValueError(msg)
    if future.status == "error":  # not of the function itself
        error = future.exception()
        if isinstance(error, dask_distributed().KilledWorker):
            return Done(
                task, error=RuntimeError(f"{DEATHS + 1} workers died of it, one after the other"), deadly=True
            ), ""
        return Done(task, error=error), ""
    if found is None:
        found = future.result()  # it had been lost with its worker, and is made again
    if isinstance(found.error, UnfitWorkerError):
        raise found.error
    return Done(task, found.value, found.error), found.worker
