"""From archives and phantoms to data sets that nnU-Net can train on."""

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813
from nnunetv2.experiment_planning import plan_and_preprocess_api
from nnunetv2.training.dataloading.nnunet_dataset import infer_dataset_class
from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

from nnunet_ima.datasets import convert
from nnunet_ima.datasets.prepare import prepare_archive
from nnunet_ima.datasets.tasks import load_task

REAL_D4 = Path(__file__).resolve().parents[3] / "shared" / "data" / "Task04_Hippocampus"

pytestmark = pytest.mark.usefixtures("fast_preparation")


def load(file: Path) -> Any:
    return json.loads(file.read_text())


def prepare(task_name: str, source: Path, **options: Any):
    return prepare_archive(load_task(task_name), source, processes=2, show_progress=False, **options)


def preprocessed_cases(folder: Path) -> dict[str, Any]:
    dataset = infer_dataset_class(str(folder))(str(folder))
    return {case: dataset.load_case(case)[0] for case in dataset.identifiers}


def leftovers(folders) -> list[str]:
    return [*os.listdir(folders.raw), *os.listdir(folders.preprocessed)]


@pytest.mark.parametrize(
    ("task_name", "shape", "spacing", "tests"),
    [
        ("D2", (200, 208, 8), (1.25, 1.25, 1.37), 0),
        ("D5", (200, 208, 8), (0.6, 0.6, 3.6), 1),
    ],
)
def test_archives(
    empty_folders,
    tmp_path: Path,
    write_archive: Callable[..., Path],
    task_name: str,
    shape: tuple[int, int, int],
    spacing: tuple[float, float, float],
    tests: int,
) -> None:
    task = load_task(task_name)
    source = write_archive(tmp_path, task_name, 3, shape, spacing, tests)
    made = prepare(task_name, source)

    name = f"Dataset00{task.dataset_id}_{task.dataset_name}"
    assert (made.raw, made.preprocessed) == (empty_folders.raw / name, empty_folders.preprocessed / name)
    assert leftovers(empty_folders) == [name, name]
    channels = task.reference_shape[0]
    info = load(made.raw / "dataset.json")
    assert (info["numTraining"], info["numTest"], len(info["channel_names"])) == (3, tests, channels)
    assert info == load(made.preprocessed / "dataset.json")
    assert len(list((made.raw / "imagesTr").iterdir())) == 3 * channels
    assert len(list((made.raw / "imagesTs").iterdir())) == tests * channels
    assert sitk.ReadImage(str(next((made.raw / "imagesTr").iterdir()))).GetSize() == shape

    plans = load(made.plans)
    assert (plans["schedule"], plans["ima"]) == (task.schedule, task.ima)
    assert plans["dataset_name"] == name
    assert set(made.configurations) == {"2d", "3d_fullres", "2d_cpu", "3d_fullres_cpu"} == set(plans["configurations"])
    manager = PlansManager(plans)
    for configuration in made.configurations:
        loaded = manager.get_configuration(configuration)
        cases = preprocessed_cases(made.preprocessed / loaded.data_identifier)
        assert len(cases) == 3
        assert all(data.shape[0] == channels for data in cases.values())
    assert manager.get_configuration("2d").patch_size == [224, 224]
    assert manager.get_configuration("2d_cpu").patch_size == [192, 192]


def test_faults_stop_before_anything_is_written(
    empty_folders, tmp_path: Path, write_archive: Callable[..., Path]
) -> None:
    source = write_archive(tmp_path, cases=6)
    (source / "labelsTr" / "hippocampus_002.nii.gz").unlink()
    (source / "imagesTr" / "hippocampus_004.nii.gz").write_bytes(b"")
    with pytest.raises(ValueError, match="2 faults in 2 of 6 cases") as caught:
        prepare("D4", source)
    assert "hippocampus_002" in str(caught.value)
    assert "hippocampus_004" in str(caught.value)
    assert "--skip-faulty" in str(caught.value)
    assert leftovers(empty_folders) == []

    made = prepare("D4", source, skip_faulty=True, dataset_id=104)
    assert made.raw.name == "Dataset104_Hippocampus"
    assert [fault.case for fault in made.skipped] == ["hippocampus_002", "hippocampus_004"]
    assert load(made.raw / "dataset.json")["numTraining"] == made.cases == 4
    assert len(list((made.raw / "labelsTr").iterdir())) == 4
    assert set(preprocessed_cases(made.preprocessed / "nnUNetPlans_2d")) == {
        f"hippocampus_00{number}" for number in (0, 1, 3, 5)
    }


def test_no_case_left(empty_folders, tmp_path: Path, write_archive: Callable[..., Path]) -> None:
    source = write_archive(tmp_path, cases=2)
    for label in (source / "labelsTr").iterdir():
        label.unlink()
    with pytest.raises(ValueError, match="Task04_Hippocampus has no training case without fault"):
        prepare("D4", source, skip_faulty=True)
    assert leftovers(empty_folders) == []


def test_failure_half_way_keeps_the_former_data_set(
    empty_folders, tmp_path: Path, write_archive: Callable[..., Path], monkeypatch: pytest.MonkeyPatch, capsys
) -> None:
    source = write_archive(tmp_path, cases=3)
    for home in (empty_folders.raw, empty_folders.preprocessed):
        (home / "Dataset004_Hippocampus").mkdir()
        (home / "Dataset004_Hippocampus" / "former").touch()
    with pytest.raises(FileExistsError, match="--overwrite"):
        prepare("D4", source)

    def fail(*args: Any, **kwargs: Any) -> None:
        print("what nnU-Net said before")
        raise RuntimeError("a worker died")

    monkeypatch.setattr(plan_and_preprocess_api, "plan_experiment_dataset", fail)
    with pytest.raises(RuntimeError, match="a worker died"):
        prepare("D4", source, overwrite=True)
    assert "what nnU-Net said before" in capsys.readouterr().err
    for home in (empty_folders.raw, empty_folders.preprocessed):
        assert [str(path.relative_to(home)) for path in home.rglob("*")] == [
            "Dataset004_Hippocampus",
            "Dataset004_Hippocampus/former",
        ]


def test_links_fall_back_to_copies(
    empty_folders, tmp_path: Path, write_archive: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(source: Path, target: Path) -> None:
        raise OSError("this file system has no links")

    monkeypatch.setattr(convert.os, "symlink", refuse)
    monkeypatch.setattr(convert.os, "link", refuse)
    file = tmp_path / "file"
    file.write_text("content")
    convert._link(file, tmp_path / "copy")
    assert (tmp_path / "copy").read_text() == "content"
    assert not (tmp_path / "copy").is_symlink()


@pytest.mark.parametrize(
    ("settings", "channels", "labels"),
    [
        ({}, 1, {0, 1, 2}),
        ({"channels": 2, "spacing": (1.0, 1.0, 4.0)}, 2, {0, 1, 2}),
        ({"regions": True}, 1, {0, 1, 2}),
        ({"ignore": True}, 1, {0, 1, 2, 3}),
    ],
)
def test_phantoms(make_phantom, settings: dict[str, Any], channels: int, labels: set[int]) -> None:
    made = make_phantom(**settings)
    assert make_phantom(**settings) is made
    plans = load(made.preprocessed / "nnUNetPlans.json")
    assert {"2d", "3d_fullres", "2d_cpu", "3d_fullres_cpu"} == set(plans["configurations"])
    assert "ima" not in plans
    manager = PlansManager(plans).get_label_manager(load(made.preprocessed / "dataset.json"))
    assert manager.has_regions == settings.get("regions", False)
    assert manager.has_ignore_label == settings.get("ignore", False)
    folder = made.preprocessed / "nnUNetPlans_3d_fullres"
    dataset = infer_dataset_class(str(folder))(str(folder))
    assert len(dataset.identifiers) == 6
    data, label = (np.asarray(array) for array in dataset.load_case("phantom_000")[:2])
    assert data.shape[0] == channels
    assert set(np.unique(label)) - {-1} == labels


@pytest.mark.skipif(not REAL_D4.is_dir(), reason="the archive Task04_Hippocampus is not here")
def test_real_hippocampus(empty_folders, tmp_path: Path) -> None:
    """A handful of the real cases, in an archive like the original one."""
    source = tmp_path / REAL_D4.name
    cases = [file.name for file in sorted((REAL_D4 / "imagesTr").iterdir())[:6]]
    for folder in ("imagesTr", "labelsTr"):
        (source / folder).mkdir(parents=True)
        for case in cases:
            shutil.copyfile(REAL_D4 / folder / case, source / folder / case)
    info = load(REAL_D4 / "dataset.json")
    info["training"] = [entry for entry in info["training"] if Path(entry["image"]).name in cases]
    (source / "dataset.json").write_text(json.dumps(info))
    made = prepare("D4", source)
    assert load(made.raw / "dataset.json")["numTraining"] == 6
    assert load(made.raw / "dataset.json")["labels"] == {"background": 0, "Anterior": 1, "Posterior": 2}
    assert PlansManager(str(made.plans)).get_configuration("2d").spacing == [1.0, 1.0]
