"""What a worker must have, or it is refused in a sentence; and the cost that decides the order."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from bare_settings import BARE

from nnunet_ima.cluster.share import UnfitWorkerError
from nnunet_ima.evidence.provenance import environment, question
from nnunet_ima.evidence.store import Store
from nnunet_ima.inference.cases import Case
from nnunet_ima.inference.model import open_model
from nnunet_ima.inference.pipeline import Pipeline
from nnunet_ima.segmentation import run
from nnunet_ima.segmentation.forecast import voxels_per_pass
from nnunet_ima.segmentation.parts import Job, Recipe, _Session, code_of

SETTINGS = replace(
    BARE,
    attacks=("fgsm",),
    eps=(0.3,),
)
WORKER = SimpleNamespace(address="tcp://node:1", name=0)


@pytest.fixture
def job(pipeline: Pipeline, tmp_path: Path) -> Job:
    store = Store(tmp_path / "out", question({"m": pipeline}, [], {}), {"device": "here", "threads": 1})
    code = code_of(environment(torch.device("cpu")))
    return Job(store.folder, store.folder, (("m", Recipe.of(pipeline, False)),), SETTINGS, code)


def test_a_worker_opens_the_model_as_the_audit_did(job: Job, pipeline: Pipeline) -> None:
    opened = _Session(job, WORKER).pipelines["m"]
    assert opened.windows_per_pass == pipeline.windows_per_pass
    assert (opened.step_size, opened.mirroring) == (pipeline.step_size, pipeline.mirroring)
    image = torch.rand(1, 1, 16, 32, 32)
    assert torch.equal(opened(image), pipeline(image))


def test_a_worker_opens_a_snapshot_too(trained_model: Path, tmp_path: Path) -> None:
    shutil.copytree(trained_model, tmp_path / "model")
    fold = tmp_path / "model" / "fold_0"
    (fold / "snapshots").mkdir()
    (fold / "checkpoint_final.pth").rename(fold / "snapshots" / "epoch_0005.pth")
    snapshot = Pipeline(open_model(tmp_path / "model", ["0"], "snapshots/epoch_0005.pth"))
    assert Recipe.of(snapshot, False).open("cpu").model.checkpoints == snapshot.model.checkpoints


def without_folder(job: Job) -> Job:
    return replace(job, sign=job.folder / "gone")


def without_model(job: Job) -> Job:
    return replace(job, models=(("m", replace(job.models[0][1], folder=job.folder / "model")),))


def with_other_mirrors(job: Job) -> Job:
    return replace(job, models=(("m", replace(job.models[0][1], mirroring=True)),))


def with_other_torch(job: Job) -> Job:
    return replace(job, code=tuple((name, "1.0" if name == "torch" else text) for name, text in job.code))


def with_other_code(job: Job) -> Job:
    return replace(job, code=(*job.code[:-1], ("code", "0")))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (without_folder, "the worker tcp://node:1 does not see .*out; --output must lie where all workers find it"),
        (without_model, "the worker tcp://node:1 cannot open the model m: .*plans.json"),
        (with_other_mirrors, "finds another model m in"),
        (with_other_torch, r"has torch \S+, and the audit runs with 1.0; install the same there"),
        (with_other_code, "runs other code of nnunet-ima"),
    ],
)
def test_an_unfit_worker_says_what_it_lacks(job: Job, change: Callable[[Job], Job], message: str) -> None:
    with pytest.raises(UnfitWorkerError, match=message):
        _Session(change(job), WORKER)


def test_machines_that_help_are_named_once(tmp_path: Path) -> None:
    store = Store(tmp_path / "out", {}, {"device": "here", "threads": 1})
    store.took_part({"device": "there"})
    store.took_part({"device": "there"})
    store.took_part({"device": "here"})
    text = (store.folder / "manifest.json").read_text()
    assert text.count('"there"') == text.count('"here"') == 1
    assert Store.joined(store.folder).question() == {}
    with pytest.raises(FileNotFoundError):
        Store.joined(tmp_path / "elsewhere")


def test_cost_is_what_goes_through_the_network(pipeline: Pipeline, cases: list[Case], tmp_path: Path) -> None:
    volume = run.Volumes()(cases[0], pipeline.model)
    shape = volume.image.shape[1:]
    assert voxels_per_pass(cases[0], pipeline) == pipeline.windows(shape) * 32 * 32
    (tmp_path / "broken.nii.gz").write_bytes(b"no image")
    assert voxels_per_pass(replace(cases[0], images=(tmp_path / "broken.nii.gz",)), pipeline) == 0


class Helpers:
    """Workers that do nothing, and die of one case."""

    def __init__(self, deadly: str) -> None:
        self.deadly = deadly

    def measure(self, pairs: Any) -> dict[tuple[str, str], str]:
        return {(name, case.name): "3 workers died of it" for name, case in pairs if case.name == self.deadly}

    def probe(self, wanted: Any) -> dict[tuple[str, str], str]:
        return {}

    transfer = probe


def test_a_deadly_case_is_marked_and_not_measured_here(
    pipeline: Pipeline, cases: list[Case], tmp_path: Path, predicted: list[str]
) -> None:
    store, helpers = Store(tmp_path / "out", {}, {}), Helpers(cases[0].name)
    found = run.run_audit({"m": pipeline}, cases, SETTINGS, store, 0, helpers=helpers)  # type: ignore[arg-type]
    assert [(entry.case, entry.error) for entry in found.failed] == [(cases[0].name, "3 workers died of it")]
    assert {record.case for record in found.records} == {cases[1].name}  # what no worker did is measured here
    assert set(predicted) == {cases[1].name}
