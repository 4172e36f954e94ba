"""Parts of an audit that a worker can do alone: it opens a model once, and stores what it finds where all others do."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from nnunet_ima.cluster.device import worker_device
from nnunet_ima.cluster.share import UnfitWorkerError, check_wanted, report
from nnunet_ima.cluster.workers import dask_distributed
from nnunet_ima.evidence.engine import Engine
from nnunet_ima.evidence.provenance import environment, question
from nnunet_ima.evidence.records import Result
from nnunet_ima.evidence.store import Store
from nnunet_ima.inference.cases import Case
from nnunet_ima.inference.model import open_model
from nnunet_ima.inference.pipeline import Pipeline
from nnunet_ima.inference.volumes import Volumes
from nnunet_ima.segmentation.case_audit import CaseAudit
from nnunet_ima.segmentation.measured import measure
from nnunet_ima.segmentation.probes import probe
from nnunet_ima.segmentation.settings import Settings
from nnunet_ima.segmentation.transfer import transferred

MEASURED = "measured"  # what workers report after each measurement


@dataclass(frozen=True)
class Recipe:
    """How a worker opens a model as the audit itself has opened it."""

    folder: Path
    folds: tuple[str, ...]
    checkpoint: str
    device: str
    step_size: float
    mirroring: bool
    windows_per_pass: int
    trust_checkpoint: bool

    @classmethod
    def of(cls, pipeline: Pipeline, trust_checkpoint: bool) -> Recipe:
        """The recipe of an open model."""
        model = pipeline.model
        return cls(
            model.folder.absolute(),
            model.folds,
            str(model.checkpoints[0].relative_to(model.folder / f"fold_{model.folds[0]}")),
            str(model.device),
            pipeline.step_size,
            pipeline.mirroring,
            pipeline.windows_per_pass,
            trust_checkpoint,
        )

    def open(self, device: str) -> Pipeline:
        """Open the model on a device."""
        model = open_model(self.folder, self.folds, self.checkpoint, device, self.trust_checkpoint)
        return Pipeline(model, self.step_size, self.mirroring, self.windows_per_pass)


@dataclass(frozen=True)
class Job:
    """What all parts of an audit have in common.

    Attributes:
        folder: of the store.
        sign: something that is in this folder while the audit runs, to be sure that a worker sees the same one.
        models: how to open them, by name.
        settings: of the audit.
        code: hash and versions of the code that the audit itself runs.
    """

    folder: Path
    sign: Path
    models: tuple[tuple[str, Recipe], ...]
    settings: Settings
    code: tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class Part:
    """All measurements of a model on a case."""

    model: str
    case: Case

    def do(self, audit: CaseAudit) -> None:
        """Do it; results go into the store."""
        measure(audit, _watch, lambda: report(MEASURED))


@dataclass(frozen=True)
class Probing(Part):
    """The measurements that judge the evidence, at a level."""

    level: float

    def do(self, audit: CaseAudit) -> None:
        """Do it; results go into the store."""
        probe(audit, self.level, _watch)
        report(MEASURED)


@dataclass(frozen=True)
class Transfer(Part):
    """Predictions under the noise that was made for other models."""

    sources: tuple[Result, ...]

    def do(self, audit: CaseAudit) -> None:
        """Do it; results go into the store."""
        for source in self.sources:
            transferred(audit, source, audit.engine.store)
        report(MEASURED)


def work(job: Job, part: Part) -> tuple[dict[str, Any], str]:
    """Do a part of an audit in a worker; returns what `look` does, and why it cannot be done, if so.

    Raises:
        UnfitWorkerError: the worker is not like the audit, or sees other files.
    """
    session = _session(job)
    for file in (*part.case.images, part.case.label):
        if not file.is_file():
            msg = f"{session.worker} does not see {file}; workers need the files under the same paths"
            raise UnfitWorkerError(msg)
    try:
        part.do(session.audit(part))
    except (ValueError, MemoryError) as error:
        return session.environment, str(error)
    return session.environment, ""


def look(job: Job) -> dict[str, Any]:
    """See whether a worker is fit for an audit; returns its part of the provenance: code, versions, device, threads.

    Raises:
        UnfitWorkerError: it is not.
    """
    return _session(job).environment


def code_of(found: dict[str, Any]) -> tuple[tuple[str, str], ...]:
    """What of an environment must be the same everywhere, for the same bits."""
    versions = {name: text for name, text in found["versions"].items() if name != "python"}
    return (*versions.items(), ("code", found["code"]))


class _Session:
    """A worker's open models and store."""

    def __init__(self, job: Job, worker: Any) -> None:
        self.job, self.worker = job, f"the worker {worker.address}"
        torch.set_num_threads(1)  # as everywhere in this audit: sums depend on the number
        device = worker_device(job.models[0][1].device, worker.name, torch.cuda.device_count())
        self.environment = environment(torch.device(device))
        del self.environment["command"]  # Dask's
        self._check_code()
        if not job.sign.exists():
            msg = f"{self.worker} does not see {job.folder}; --output must lie where all workers find it by this path"
            raise UnfitWorkerError(msg)
        self.engine, self.volumes = Engine(Store.joined(job.folder)), Volumes()
        self.pipelines = {name: self._open(name, recipe, device) for name, recipe in job.models}

    def _check_code(self) -> None:
        for (name, wanted), (_, found) in zip(self.job.code, code_of(self.environment), strict=True):
            if found != wanted and name == "code":
                msg = f"{self.worker} runs other code of nnunet-ima; install the same there"
                raise UnfitWorkerError(msg)
            if found != wanted:
                msg = f"{self.worker} has {name} {found}, and the audit runs with {wanted}; install the same there"
                raise UnfitWorkerError(msg)

    def _open(self, name: str, recipe: Recipe, device: str) -> Pipeline:
        try:
            pipeline = recipe.open(device)
        except (ValueError, OSError, RuntimeError) as error:
            msg = f"{self.worker} cannot open the model {name}: {error}"
            raise UnfitWorkerError(msg) from error
        if question({name: pipeline}, [], {})["models"][name] != self.engine.store.question()["models"][name]:
            msg = f"{self.worker} finds another model {name} in {recipe.folder} than the audit does"
            raise UnfitWorkerError(msg)
        return pipeline

    def audit(self, part: Part) -> CaseAudit:
        """The audit of a part's case."""
        pipeline = self.pipelines[part.model]
        return CaseAudit(part.model, pipeline, part.case, self.job.settings, self.engine, self.volumes)


def _session(job: Job) -> _Session:
    """The session of the worker that this runs in; that of an earlier audit is let go of."""
    worker = dask_distributed().get_worker()
    kept = getattr(worker, "nnunet_ima_session", None)
    if kept is None or kept.job != job:
        worker.nnunet_ima_session = None  # first, to free its memory
        worker.nnunet_ima_session = kept = _Session(job, worker)
    found: _Session = kept
    return found


def _watch(title: str, worst: float) -> None:
    """End an attack between its steps if nobody waits for it any more."""
    check_wanted()
