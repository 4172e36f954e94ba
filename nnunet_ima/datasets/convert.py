"""From a checked archive to nnU-Net's raw layout, through nnU-Net's own converter."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

from nnunet_ima.datasets.archive import SUFFIX
from nnunet_ima.datasets.checks import Report
from nnunet_ima.datasets.folders import Staging, dataset_folder_name, nnunet_at
from nnunet_ima.datasets.tasks import Task


def convert(report: Report, task: Task, dataset_id: int, places: Staging, processes: int) -> Path:
    """Convert the cases without fault; return the folder of the new raw data set.

    Args:
        report: what the checks of the archive found.
        task: the task that the archive belongs to.
        dataset_id: number of the new data set.
        places: the working folders; the data set is written to their `raw`.
        processes: number of worker processes.

    Raises:
        ValueError: no training case is left.
        OSError: nnU-Net's converter wrote fewer files than there are cases.
    """
    if not report.training:
        msg = f"{report.archive.root.name} has no training case without fault"
        raise ValueError(msg)
    # Imported here because it takes seconds: wrong inputs are refused before.
    from nnunetv2.dataset_conversion.convert_MSD_dataset import convert_msd_dataset

    view = _stage_view(report, places.scratch / "view" / task.archive)
    with nnunet_at(places):
        convert_msd_dataset(str(view), dataset_id, num_processes=min(processes, len(report.training)))
    dataset = places.raw / dataset_folder_name(dataset_id, task.dataset_name)
    _count_files(dataset, report)
    _complete_dataset_json(dataset / "dataset.json", report)
    return dataset


def _stage_view(report: Report, view: Path) -> Path:
    """Make a folder that looks like the archive but holds only its good cases, as links.

    nnU-Net's converter takes every file that it finds, and stops if imagesTs is missing.
    """
    for name in ("imagesTr", "labelsTr", "imagesTs"):
        (view / name).mkdir(parents=True)
    for case, (image, label) in report.training.items():
        _link(image, view / "imagesTr" / f"{case}{SUFFIX}")
        _link(label, view / "labelsTr" / f"{case}{SUFFIX}")
    for case, image in report.test.items():
        _link(image, view / "imagesTs" / f"{case}{SUFFIX}")
    info = {**report.archive.info, "training": [], "test": []}  # the converter deletes both keys
    (view / "dataset.json").write_text(json.dumps(info), encoding="utf-8")
    return view


def _link(source: Path, target: Path) -> None:
    """Link a file, symbolically or hard, or copy it where the file system allows neither."""
    for link in (os.symlink, os.link):
        try:
            link(source, target)
        except OSError:
            continue
        return
    shutil.copyfile(source, target)


def _count_files(dataset: Path, report: Report) -> None:
    channels = len(report.archive.channels)
    expected = {
        "imagesTr": len(report.training) * channels,
        "labelsTr": len(report.training),
        "imagesTs": len(report.test) * channels,
    }
    for name, number in expected.items():
        found = sum(1 for file in (dataset / name).iterdir() if file.name.endswith(SUFFIX))
        if found != number:
            msg = f"nnU-Net's converter wrote {found} files to {name}, expected {number}; is the disk full?"
            raise OSError(msg)


def _complete_dataset_json(file: Path, report: Report) -> None:
    """Set the numbers of cases, which the converter copies from the archive."""
    info = json.loads(file.read_text(encoding="utf-8"))
    info |= {"numTraining": len(report.training), "numTest": len(report.test)}
    file.write_text(json.dumps(info, indent=4), encoding="utf-8")
