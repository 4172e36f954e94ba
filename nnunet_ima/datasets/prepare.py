"""From an archive or a phantom to a data set that nnU-Net can train on: nnU-Net's own steps, then our overlay."""

from __future__ import annotations

import io
import os
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass
from pathlib import Path

from nnunet_ima.datasets.archive import open_archive
from nnunet_ima.datasets.checks import Fault, check_archive
from nnunet_ima.datasets.convert import convert
from nnunet_ima.datasets.folders import Staging, dataset_folder_name, nnunet_at, refuse_taken, staging
from nnunet_ima.datasets.overlay import GENERIC_CPU, overlay, read_plans, write_plans
from nnunet_ima.datasets.phantom_dataset import PhantomSettings, write_phantom
from nnunet_ima.datasets.tasks import CpuConfiguration, Task

PLANS_NAME = "nnUNetPlans"


@dataclass(frozen=True)
class Prepared:
    """A data set that is ready for training.

    Attributes:
        dataset_id: its number.
        raw: its folder in nnUNet_raw.
        preprocessed: its folder in nnUNet_preprocessed.
        configurations: names of all configurations in its plans.
        cases: number of training cases.
        skipped: faults of the cases that were left out.
    """

    dataset_id: int
    raw: Path
    preprocessed: Path
    configurations: tuple[str, ...]
    cases: int
    skipped: tuple[Fault, ...] = ()

    @property
    def plans(self) -> Path:
        """The plans JSON."""
        return self.preprocessed / f"{PLANS_NAME}.json"


def prepare_archive(
    task: Task,
    source: Path,
    *,
    dataset_id: int | None = None,
    skip_faulty: bool = False,
    overwrite: bool = False,
    processes: int | None = None,
    show_progress: bool = True,
) -> Prepared:
    """Check, convert, plan and preprocess an archive of the Decathlon, and add the plan of its task.

    The data set appears in nnU-Net's folders when all of it is done, or not at all.

    Args:
        task: the task.
        source: folder or tar file of its archive.
        dataset_id: number of the data set; None takes the task's.
        skip_faulty: leave cases with faults out instead of stopping.
        overwrite: replace an existing data set of the same name, with its preprocessed data and plans.
        processes: number of worker processes; None takes one per core, at most 8.
        show_progress: draw progress bars on stderr.

    Raises:
        ValueError: the archive has faults (the message lists all of them), or nnU-Net's variables are not set.
        FileNotFoundError: `source` is not there or not an archive.
        FileExistsError: the data set, or another one with its number, exists already.
    """
    number = task.dataset_id if dataset_id is None else dataset_id
    folder = dataset_folder_name(number, task.dataset_name)
    processes = _worker_processes(processes)
    with staging() as places:
        refuse_taken(folder, overwrite)
        report = check_archive(open_archive(source, task, places.scratch), show_progress)
        if report.faults and not skip_faulty:
            way_out = "Nothing was written. Repair these files, or leave the cases out with --skip-faulty."
            msg = f"{report.summary()}\n{way_out}"
            raise ValueError(msg)
        convert(report, task, number, places, processes)
        plan_and_preprocess(folder, places, min(processes, len(report.training)), show_progress)
        names = add_overlay(places.preprocessed / folder, task.cpu, {"schedule": task.schedule, "ima": task.ima})
        raw, preprocessed = places.publish(folder)
    return Prepared(number, raw, preprocessed, names, len(report.training), report.faults)


def prepare_phantom(
    settings: PhantomSettings,
    *,
    dataset_id: int = 999,
    dataset_name: str = "Phantom",
    overwrite: bool = False,
    processes: int | None = None,
    show_progress: bool = True,
) -> Prepared:
    """Generate phantom volumes, then plan and preprocess them; see `prepare_archive` for what is common.

    Args:
        settings: what the volumes are like.
        dataset_id: number of the data set.
        dataset_name: its name.
        overwrite: replace an existing data set of the same name, with its preprocessed data and plans.
        processes: number of worker processes; None takes one per core, at most 8.
        show_progress: draw progress bars on stderr.

    Raises:
        ValueError: a setting is impossible, or nnU-Net's variables are not set.
        FileExistsError: the data set, or another one with its number, exists already.
    """
    folder = dataset_folder_name(dataset_id, dataset_name)
    processes = _worker_processes(processes)
    with staging() as places:
        refuse_taken(folder, overwrite)
        write_phantom(places.raw / folder, settings, show_progress)
        plan_and_preprocess(folder, places, min(processes, settings.cases), show_progress)
        names = add_overlay(places.preprocessed / folder, GENERIC_CPU)
        raw, preprocessed = places.publish(folder)
    return Prepared(dataset_id, raw, preprocessed, names, settings.cases)


def plan_and_preprocess(folder: str, places: Staging, processes: int, show_progress: bool = True) -> None:
    """Run nnU-Net's fingerprint, planning and preprocessing of 2d, 3d_fullres and, where planned, 3d_lowres.

    Args:
        folder: folder name of the data set in the working folders, for example "Dataset004_Hippocampus".
        places: the working folders.
        processes: number of worker processes.
        show_progress: draw progress bars on stderr.
    """
    # Imported here because it takes seconds: wrong inputs are refused before.
    from nnunetv2.experiment_planning import plan_and_preprocess_api as api

    dataset_id = int(folder[len("Dataset") :].split("_")[0])
    with nnunet_at(places), _quiet():
        api.extract_fingerprint_dataset(
            dataset_id, num_processes=processes, verbose=False, show_progress_bar=show_progress
        )
        api.plan_experiment_dataset(dataset_id)
        planned = read_plans(places.preprocessed / folder / f"{PLANS_NAME}.json")["configurations"]
        own_data = [name for name in ("2d", "3d_fullres", "3d_lowres") if name in planned]
        api.preprocess_dataset(dataset_id, PLANS_NAME, own_data, [processes], show_progress_bar=show_progress)


def add_overlay(
    preprocessed: Path,
    cpu: Mapping[str, CpuConfiguration],
    settings: Mapping[str, Mapping[str, object]] | None = None,
) -> tuple[str, ...]:
    """Add our part to the plans of a preprocessed data set; return the names of all its configurations."""
    file = preprocessed / f"{PLANS_NAME}.json"
    plans = overlay(read_plans(file), cpu, settings)
    write_plans(plans, file)
    return tuple(plans["configurations"])


@contextmanager
def _quiet() -> Iterator[None]:
    """Hold back what nnU-Net prints, which is long and names the working folders; show it only if it fails."""
    printed = io.StringIO()
    try:
        with redirect_stdout(printed):
            yield
    except BaseException:
        sys.stderr.write(printed.getvalue())
        raise


def _worker_processes(processes: int | None) -> int:
    if processes is None:
        return min(os.cpu_count() or 1, 8)
    if processes < 1:
        msg = f"--processes must be at least 1, got {processes}"
        raise ValueError(msg)
    return processes
