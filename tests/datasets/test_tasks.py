"""The packaged plans of the tasks."""

from math import prod

import pytest

from nnunet_ima.datasets.tasks import find_task, load_task, plans_folder, task_names
from nnunet_ima.training.settings import resolve_settings


def test_all_tasks_are_packaged() -> None:
    assert task_names() == ("D2", "D4", "D5")
    assert (plans_folder() / "D4.json").is_file()


@pytest.mark.parametrize(
    ("name", "dataset_id", "archive", "eps_max", "delta", "elements"),
    [
        ("D2", 2, "Task02_Heart", 20, 5, 320 * 256),
        ("D4", 4, "Task04_Hippocampus", 15, 2, 56 * 40),
        ("D5", 5, "Task05_Prostate", 40, 10, 320 * 320 * 2),
    ],
)
def test_tasks_have_the_papers_numbers(
    name: str, dataset_id: int, archive: str, eps_max: float, delta: float, elements: int
) -> None:
    task = load_task(name)
    assert (task.name, task.dataset_id, task.archive) == (name, dataset_id, archive)
    assert (task.schedule["norm"], task.ima["eps"], task.ima["delta"]) == ("L2", eps_max, delta)
    assert (task.schedule["epochs"], task.schedule["iterations_per_epoch"], task.schedule["tau"]) == (50, 50, 0.6)
    assert task.schedule["reference_elements"] == elements == prod(task.reference_shape)
    assert task.audit_eps[0] == 0
    assert set(task.cpu) == {"2d_cpu", "3d_fullres_cpu"}
    assert resolve_settings({"dataset_name": f"Dataset{dataset_id:03d}_{task.dataset_name}"}).options["eps"] == eps_max


@pytest.mark.parametrize(
    ("dataset", "task"),
    [
        ("Dataset004_Hippocampus", "D4"),
        ("Dataset104_Hippocampus", "D4"),
        ("Dataset002_Prostate", "D5"),  # the name wins
        ("hippocampus", "D4"),
        ("4", "D4"),
        (2, "D2"),
        ("Dataset004_Spleen", None),
        ("Dataset004_HippocampusLeft", None),
        (104, None),
        ("Phantom", None),
    ],
)
def test_find_task(dataset: str | int, task: str | None) -> None:
    found = find_task(dataset)
    assert (found.name if found else None) == task


def test_unknown_task_is_refused() -> None:
    with pytest.raises(ValueError, match=r"unknown task 'D3'; known are D2, D4, D5"):
        load_task("D3")
