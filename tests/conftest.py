"""Data sets for tests: small phantoms, prepared once per session, and small archives of the Decathlon."""

from __future__ import annotations

import json
import multiprocessing
import multiprocessing.pool
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import nibabel as nib
import numpy as np
import pytest

from nnunet_ima.datasets.folders import VARIABLES
from nnunet_ima.datasets.phantom import phantom_case
from nnunet_ima.datasets.phantom_dataset import PhantomSettings
from nnunet_ima.datasets.prepare import prepare_phantom
from nnunet_ima.datasets.tasks import load_task

# nnU-Net reads some of these at import. No extra processes: starting one costs seconds.
os.environ.setdefault("nnUNet_n_proc_DA", "0")
os.environ.setdefault("nnUNet_def_n_proc", "1")
os.environ.setdefault("nnUNet_compile", "f")
os.environ.setdefault("MPLBACKEND", "Agg")


@dataclass(frozen=True)
class Folders:
    """nnU-Net's three folders."""

    raw: Path
    preprocessed: Path
    results: Path


@dataclass(frozen=True)
class PhantomDataset:
    """A prepared phantom data set, with its folder in each of nnU-Net's three folders (results may be missing)."""

    dataset_id: int
    name: str
    raw: Path
    preprocessed: Path
    results: Path


pytest_plugins = ["findings_fixtures", "trainer_fixtures"]

# Files that take long, longest first: begun first, so that no process is left alone with one of them in the end.
LONG = (
    *("test_trainer", "test_end_to_end", "test_kills", "test_gpu_script", "test_classify", "test_compare"),
    *("test_run", "test_resume", "test_classify_digits", "test_registration", "test_prepare", "test_half_precision"),
    *("test_attack", "test_methods", "test_snapshots", "test_study", "test_presets", "test_classifier_audit"),
    *("test_commands_in_docs", "test_snippets", "test_pipeline", "test_fit", "test_averaged", "test_ddp"),
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put the long files first."""
    items.sort(key=lambda item: LONG.index(item.path.stem) if item.path.stem in LONG else len(LONG))


MakePhantom = Callable[..., PhantomDataset]
WriteArchive = Callable[..., Path]


@contextmanager
def fast_nnunet() -> Iterator[None]:
    """Let nnU-Net prepare small data sets in no time.

    Its worker pools are threads, as starting interpreters takes seconds, and it estimates intensities from 10^5 voxels
    instead of 10^8, which it draws with replacement however small the data set is.
    """
    from nnunetv2.experiment_planning.dataset_fingerprint.fingerprint_extractor import DatasetFingerprintExtractor

    original_context, original_init = multiprocessing.get_context, DatasetFingerprintExtractor.__init__
    threads = SimpleNamespace(Pool=multiprocessing.pool.ThreadPool)

    def get_context(kind: str | None = None) -> Any:
        return threads if kind == "spawn" else original_context(kind)

    def init(self: Any, *args: Any, **kwargs: Any) -> None:
        original_init(self, *args, **kwargs)
        self.num_foreground_voxels_for_intensitystats = 10**5

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(multiprocessing, "get_context", get_context)
        patch.setattr(DatasetFingerprintExtractor, "__init__", init)
        yield


def set_folders(patch: pytest.MonkeyPatch, home: Path) -> Folders:
    folders = Folders(home / "raw", home / "preprocessed", home / "results")
    for variable, folder in zip(VARIABLES, vars(folders).values(), strict=True):
        folder.mkdir()
        patch.setenv(variable, str(folder))
    return folders


@pytest.fixture(autouse=True)
def one_thread() -> None:
    """Tiny networks lose more by waiting for a second thread than it does for them."""
    import torch

    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def nnunet_folders(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Folders]:
    """nnU-Net's folders for the whole session, set in the environment."""
    with pytest.MonkeyPatch.context() as patch:
        yield set_folders(patch, tmp_path_factory.mktemp("nnunet"))


@pytest.fixture
def empty_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Folders:
    """Empty folders of nnU-Net for one test, set in the environment."""
    return set_folders(monkeypatch, tmp_path)


@pytest.fixture
def fast_preparation() -> Iterator[None]:
    """Let nnU-Net prepare small data sets in no time during one test."""
    with fast_nnunet():
        yield


@pytest.fixture(scope="session")
def make_phantom(nnunet_folders: Folders) -> MakePhantom:
    """A function that prepares a phantom data set and returns where it is; the same settings are prepared once.

    Its arguments are those of PhantomSettings, and `dataset_id`; by default 6 cases of 32×32×16 voxels.
    """
    made: dict[str, PhantomDataset] = {}

    def make(dataset_id: int | None = None, **settings: Any) -> PhantomDataset:
        settings = {"cases": 6, "shape": (32, 32, 16), **settings}
        key = repr((dataset_id, sorted(settings.items())))
        if key not in made:
            number = 901 + len(made) if dataset_id is None else dataset_id
            with fast_nnunet():
                prepare_phantom(PhantomSettings(**settings), dataset_id=number, processes=2, show_progress=False)
            name = f"Dataset{number:03d}_Phantom"
            homes = vars(nnunet_folders).values()
            made[key] = PhantomDataset(number, name, *(home / name for home in homes))
        return made[key]

    return make


@pytest.fixture(scope="session")
def phantom(make_phantom: MakePhantom) -> PhantomDataset:
    """The default phantom data set: one channel, isotropic, labels 1 and 2."""
    return make_phantom()


def save_nifti(voxels: np.ndarray[Any, Any], spacing: tuple[float, ...], file: Path) -> None:
    nib.save(nib.Nifti1Image(voxels, np.diag([*spacing, 1.0])), file)


@pytest.fixture(scope="session")
def write_archive() -> WriteArchive:
    """A function that writes a small archive of a task of the Decathlon into a folder and returns the archive."""

    def write(
        home: Path,
        task_name: str = "D4",
        cases: int = 5,
        shape: tuple[int, int, int] = (20, 24, 16),
        spacing: tuple[float, float, float] = (1.0, 1.0, 1.0),
        tests: int = 0,
    ) -> Path:
        task = load_task(task_name)
        root = home / task.archive
        channels = task.reference_shape[0]
        prefix = task.dataset_name.lower()
        for folder in ("imagesTr", "labelsTr", *(["imagesTs"] if tests else [])):
            (root / folder).mkdir(parents=True)
        for number in range(cases + tests):
            image, label = phantom_case(np.random.default_rng([7, number]), shape, spacing, channels)
            voxels = np.moveaxis(image, 0, -1) if channels > 1 else image[0]
            name = f"{prefix}_{number:03d}.nii.gz"
            save_nifti(voxels, spacing, root / ("imagesTr" if number < cases else "imagesTs") / name)
            if number < cases:
                labels = np.minimum(label, 1) if task_name == "D2" else label
                save_nifti(labels, spacing, root / "labelsTr" / name)
        names = [f"{prefix}_{number:03d}.nii.gz" for number in range(cases + tests)]
        info = {
            "name": task.dataset_name.upper(),
            "tensorImageSize": "4D" if channels > 1 else "3D",
            "modality": {"0": "T2", "1": "ADC"} if channels > 1 else {"0": "MRI"},
            "labels": {"0": "background", "1": "one", **({} if task_name == "D2" else {"2": "two"})},
            "numTraining": cases,
            "numTest": tests,
            "training": [{"image": f"./imagesTr/{name}", "label": f"./labelsTr/{name}"} for name in names[:cases]],
            "test": [f"./imagesTs/{name}" for name in names[cases:]],
        }
        (root / "dataset.json").write_text(json.dumps(info))
        return root

    return write


@pytest.fixture(scope="session")
def trained_model(phantom: PhantomDataset) -> Path:
    """Results folder of a stock nnU-Net model, 2D and tiny, that segments the phantom's cases fairly well.

    The trainer is nnU-Net's own and writes the checkpoint; its network is fitted in a few seconds, to all cases.
    """
    import torch
    from nnunetv2.training.dataloading.nnunet_dataset import infer_dataset_class
    from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer

    torch.manual_seed(0)
    plans = json.loads((phantom.preprocessed / "nnUNetPlans.json").read_text()) | {"continue_training": False}
    kwargs = plans["configurations"]["2d"]["architecture"]["arch_kwargs"]
    kwargs["features_per_stage"] = [8] * len(kwargs["features_per_stage"])
    dataset_json = json.loads((phantom.preprocessed / "dataset.json").read_text())
    trainer = nnUNetTrainer(plans, "2d", 0, dataset_json, torch.device("cpu"))
    trainer.initialize()
    trainer.inference_allowed_mirroring_axes = (0, 1)
    trainer.do_split()  # writes splits_final.json, as a training does
    folder = phantom.preprocessed / "nnUNetPlans_2d"
    cases = infer_dataset_class(str(folder))(str(folder))
    slices = [
        (torch.from_numpy(np.array(image)).float().transpose(0, 1), torch.from_numpy(np.array(label))[0].long())
        for image, label, *_ in (cases.load_case(name) for name in cases.identifiers)
    ]
    optimizer = torch.optim.Adam(trainer.network.parameters(), 3e-3)
    for step in range(60):
        image, label = slices[step % len(slices)]
        logits = trainer.network(image)[0]
        loss = torch.nn.functional.cross_entropy(logits, label.clamp_min(0), torch.tensor([1.0, 5.0, 5.0]))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    trainer.save_checkpoint(str(Path(trainer.output_folder) / "checkpoint_final.pth"))
    results = Path(trainer.output_folder_base)
    for name, content in (("plans.json", trainer.plans_manager.plans), ("dataset.json", dataset_json)):
        (results / name).write_text(json.dumps(content))
    return results
