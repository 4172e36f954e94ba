"""Open an archive of the Medical Segmentation Decathlon: a folder or a .tar, and its dataset.json."""

from __future__ import annotations

import json
import re
import tarfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nnunet_ima.datasets.tasks import Task

SUFFIX = ".nii.gz"


@dataclass(frozen=True)
class Archive:
    """An opened archive.

    Attributes:
        root: folder that holds dataset.json, imagesTr and labelsTr.
        info: content of dataset.json.
        channels: names of the input channels.
        labels: name of each label value.
        listed: for each training case that dataset.json lists, the paths of its image and label, relative to `root`;
            empty if it lists none.
    """

    root: Path
    info: dict[str, Any]
    channels: tuple[str, ...]
    labels: dict[int, str]
    listed: dict[str, tuple[str, str]]


def open_archive(source: Path, task: Task, scratch: Path) -> Archive:
    """Find the archive of a task in a folder or a tar file and read its dataset.json.

    Args:
        source: the archive's folder, a folder that holds it, or a tar file of it.
        task: the task whose archive this should be.
        scratch: an empty folder; a tar file is extracted into it.

    Raises:
        FileNotFoundError: there is nothing at `source`, or no dataset.json in it.
        ValueError: it is the archive of another task, no or a truncated tar file, or dataset.json is damaged.
    """
    if not source.exists():
        msg = f"{source} does not exist; --source must name the folder {task.archive} or its .tar file"
        raise FileNotFoundError(msg)
    source = source.absolute()  # gives "." a name
    folder = source if source.is_dir() else _extract(source, scratch)
    root = _find_root(folder, task.archive)
    if root is None:
        msg = f"{source} holds no dataset.json; it does not look like the archive {task.archive}"
        raise FileNotFoundError(msg)
    other = re.match(r"Task\d\d_\w+", root.name)
    if other and other[0] != task.archive:
        msg = f"{source} is {other[0]}, but {task.name} needs {task.archive}"
        raise ValueError(msg)
    for folder in (root / "imagesTr", root / "labelsTr"):
        if not folder.is_dir():
            msg = f"{folder} is missing; {source} is not a whole archive {task.archive}"
            raise FileNotFoundError(msg)
    return _read_info(root)


def case_name(path: str) -> str:
    """Return the name of the case that an image or label file belongs to."""
    return Path(path).name.removesuffix(SUFFIX)


def nifti_files(folder: Path) -> dict[str, Path]:
    """Return the NIfTI files of a folder by case name, without the `._*` files that macOS adds to archives."""
    if not folder.is_dir():
        return {}
    files = sorted(file for file in folder.iterdir() if file.name.endswith(SUFFIX) and file.name[0] not in "._")
    return {case_name(file.name): file for file in files}


def _find_root(folder: Path, archive: str) -> Path | None:
    inside = [folder, folder / archive]
    inside += sorted(path for path in folder.iterdir() if path.is_dir() and path.name[0] not in "._")
    candidates = [path for path in inside if (path / "dataset.json").is_file()]
    named = [path for path in candidates if path.name == archive]  # in a folder of many archives
    return next(iter([*named, *candidates]), None)


def _extract(file: Path, scratch: Path) -> Path:
    """Extract a tar file into a folder, refusing members that would land outside of it."""
    if not hasattr(tarfile, "data_filter"):  # Python 3.10.0 to 3.10.11
        msg = f"this Python cannot extract archives safely; extract {file} yourself and name the folder"
        raise ValueError(msg)
    try:
        with tarfile.open(file) as tar:
            for member in tar:
                if not Path(member.name).name.startswith("._"):
                    tar.extract(member, scratch, filter="data")
            # tarfile takes a file that ends between two members for a whole one; a whole one ends with zeros.
            tar.fileobj.seek(tar.offset)
            end = tar.fileobj.read(tarfile.BLOCKSIZE)
            if len(end) < tarfile.BLOCKSIZE or end.strip(b"\0"):
                msg = "unexpected end of data"
                raise tarfile.ReadError(msg)
    except (tarfile.FilterError, tarfile.HeaderError) as error:
        msg = f"{file} cannot be extracted: {error}"
        raise ValueError(msg) from error
    except (tarfile.TarError, EOFError) as error:
        msg = f"{file} is truncated or not a tar file ({error}); download it again"
        raise ValueError(msg) from error
    return scratch


def _read_info(root: Path) -> Archive:
    file = root / "dataset.json"
    try:
        info = json.loads(file.read_text(encoding="utf-8"))
        channels = tuple(info["modality"][str(channel)] for channel in range(len(info["modality"])))
        labels = {int(value): str(name) for value, name in info["labels"].items()}
        listed = dict(_listed_case(entry) for entry in info.get("training", []))
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        msg = f"{file} is damaged: {error!r}"
        raise ValueError(msg) from error
    if sorted(labels) != list(range(len(labels))) or len(labels) < 2 or len(set(labels.values())) < len(labels):
        msg = f'{file} is damaged: "labels" must name the values 0, 1, ... once each, got {info["labels"]}'
        raise ValueError(msg)
    if not channels:
        msg = f'{file} is damaged: "modality" names no channel'
        raise ValueError(msg)
    if len(listed) != len(info.get("training", [])):
        msg = f'{file} is damaged: "training" lists a case twice'
        raise ValueError(msg)
    return Archive(root, info, channels, labels, listed)


def _listed_case(entry: Mapping[str, str]) -> tuple[str, tuple[str, str]]:
    image, label = Path(entry["image"]).as_posix(), Path(entry["label"]).as_posix()
    for path in (image, label):
        if Path(path).is_absolute() or ".." in Path(path).parts:
            msg = f"{path} lies outside the archive"
            raise ValueError(msg)
    return case_name(image), (image, label)
