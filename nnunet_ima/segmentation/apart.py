"""An audit's work shared out among workers; the audit itself then finds all results stored, and tells them."""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from typing import Any

import torch
from tqdm import tqdm

from nnunet_ima.cluster.share import Task, share
from nnunet_ima.evidence.provenance import environment
from nnunet_ima.evidence.records import Result
from nnunet_ima.evidence.store import Store
from nnunet_ima.inference.cases import Case
from nnunet_ima.inference.pipeline import Pipeline
from nnunet_ima.segmentation.forecast import voxels_per_pass
from nnunet_ima.segmentation.measured import count
from nnunet_ima.segmentation.parts import Job, Part, Probing, Recipe, Transfer, code_of, look, work
from nnunet_ima.segmentation.settings import Settings

NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS)

Lost = dict[tuple[str, str], str]
"""Why a case of a model could not be measured by any worker, by the names of both: it kills them."""


class Apart:
    """Fills an audit's store through workers.

    What they could not do is missing then; the audit measures it itself, or tells why not. What kills workers is not
    tried again: it would kill the audit.
    """

    def __init__(self, client: Any, job: Job, pipelines: Mapping[str, Pipeline], store: Store) -> None:
        self._client, self._job, self._pipelines, self._store = client, job, pipelines, store
        self._known: list[dict[str, Any]] = []

    def measure(self, pairs: Sequence[tuple[str, Case]]) -> Lost:
        """Measure cases of models.

        Raises:
            OSError: a worker cannot write into the store.
        """
        return self._share([Part(*pair) for pair in pairs], count(self._job.settings), "measurement")

    def probe(self, wanted: Sequence[tuple[str, Case, float]]) -> Lost:
        """Measure cases again, at the level that tells most of their model."""
        return self._share([Probing(*entry) for entry in wanted], 1, "case to judge")

    def transfer(self, wanted: Sequence[tuple[str, Case, Sequence[Result]]]) -> Lost:
        """Predict cases under the worst noise that was made for other models."""
        return self._share([Transfer(name, case, tuple(found)) for name, case, found in wanted], 1, "case to transfer")

    def _share(self, parts: Sequence[Part], each: int, unit: str) -> Lost:
        lost: Lost = {}
        parts = [replace(part, case=_absolute(part.case)) for part in parts]
        tasks = [Task((self._job, part), self._cost(part)) for part in parts]
        often = 0.2 if sys.stderr.isatty() else 30.0  # seconds; a log file would fill up
        with tqdm(total=each * len(parts), unit=unit, mininterval=often, maxinterval=60, disable=not parts) as bar:
            for done in share(self._client, work, tasks, lambda _: self._heard(bar)) if parts else ():
                part = done.task.arguments[1]
                if done.deadly:
                    lost[part.model, part.case.name] = str(done.error)
                elif isinstance(done.error, OSError) and done.error.errno in NO_ROOM:
                    raise done.error  # the next case would come as far
                elif done.error is not None:
                    tqdm.write(f"{part.case.name}: a worker says {done.error!r}", file=sys.stderr)
                else:
                    self._met(done.value[0])
        return lost

    def look(self) -> None:
        """See whether the workers that are there are fit for their work.

        Raises:
            ValueError: one is not.
        """
        for done in share(self._client, look, [Task((self._job,)) for _ in self._client.nthreads()]):
            if done.error is not None:
                msg = f"a worker cannot begin: {done.error!r}"
                raise ValueError(msg) from done.error
            self._met(done.value)

    def _heard(self, bar: tqdm[Any]) -> None:
        """A measurement is done."""
        bar.update()
        with suppress(OSError):
            os.utime(self._job.sign)  # other machines remove what they find to be a day old

    def _met(self, environment: dict[str, Any]) -> None:
        if environment not in self._known:
            self._known.append(environment)
            self._store.took_part(environment)

    def _cost(self, part: Part) -> float:
        return voxels_per_pass(part.case, self._pipelines[part.model])


@contextmanager
def apart(
    client: Any, pipelines: Mapping[str, Pipeline], settings: Settings, store: Store, trust_checkpoint: bool = False
) -> Iterator[Apart]:
    """Prepare workers for an audit, each by a first look at what it sees.

    Args:
        client: of Dask.
        pipelines: inference of each model by its name.
        settings: of the audit.
        store: keeps the results.
        trust_checkpoint: let checkpoints run code of their own in workers, too.

    Raises:
        ValueError: a worker does not see what it needs, or has other versions.
    """
    recipes = tuple((name, Recipe.of(pipeline, trust_checkpoint)) for name, pipeline in pipelines.items())
    here = environment(torch.device("cpu"))
    with store.scratch() as sign:
        job = Job(store.folder.absolute(), sign.absolute(), recipes, settings, code_of(here))
        helpers = Apart(client, job, pipelines, store)
        helpers.look()
        yield helpers


def _absolute(case: Case) -> Case:
    return replace(case, images=tuple(file.absolute() for file in case.images), label=case.label.absolute())
