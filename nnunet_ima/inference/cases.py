"""Which cases an audit looks at: validation cases of the model's own data set, or cases of one's own."""

from __future__ import annotations

import difflib
import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import nibabel as nib
import numpy as np
import SimpleITK as sitk  # noqa: N813
from nnunetv2.utilities.utils import get_filenames_of_train_images_and_targets

from nnunet_ima.datasets.checks import Volume, count, geometry_faults, last_line
from nnunet_ima.datasets.folders import nnunet_folder
from nnunet_ima.files import check_name, read_gzip_to_end, read_json
from nnunet_ima.inference.model import TrainedModel

LARGEST = float(np.finfo(np.float32).max) ** 0.5  # nnU-Net computes with 32 bits, squares for the normalisation, too


@dataclass(frozen=True)
class Case:
    """A case with its ground truth.

    Attributes:
        name: of the case.
        images: one file per channel.
        label: file of the label map.
        fault: why it cannot be measured, where that is known before its files are looked at; they only say it again.
        folder: holds the files if they were made for this run alone; no report names it.
    """

    name: str
    images: tuple[Path, ...]
    label: Path
    fault: str = ""
    folder: Path | None = None

    def told(self, text: str) -> str:
        """Return a text for reports, in which files that were made for this run go by their names alone."""
        return text if self.folder is None else text.replace(f"{self.folder}{os.sep}", "")


def dataset_cases(
    dataset: str, folds: Sequence[str], names: Sequence[str] | None = None, allow_training_cases: bool = False
) -> list[Case]:
    """Cases of the data set that a model was trained on, which none of its audited folds has been trained on.

    Args:
        dataset: the model's own, for example "Dataset004_Hippocampus".
        folds: folds of the audited ensemble, "0", "1", … or "all", which has seen every case.
        names: cases to take; None: all that may be taken.
        allow_training_cases: take training cases, too.

    Raises:
        ValueError: one of nnU-Net's variables is not set, there is no such fold, a name is unknown, that of a training
            case or none that a folder may have, or no case is left.
        FileNotFoundError: the data set, its split (unless training cases are taken, too) or a case's file is missing.
    """
    raw = nnunet_folder("nnUNet_raw") / dataset
    info = read_json(raw / "dataset.json", missing=f"it is needed to find the images of {dataset}; check nnUNet_raw")
    known = _raw_cases(raw, info)
    trained, validation = ({}, sorted(known)) if allow_training_cases else _split(dataset, folds, sorted(known))
    for name in names or ():
        if name not in known:
            msg = f"{raw} holds no case {name!r}{_similar(name, known)}"
            raise ValueError(msg)
        if name in trained:
            msg = (
                f"{name} is a training case of fold {trained[name]}, on which a model looks better than it is; choose "
                "another case, or add --allow-training-cases"
            )
            raise ValueError(msg)
    chosen = list(dict.fromkeys(names or ())) or validation
    if not chosen:
        msg = (
            f"every case of {dataset} is a training case of one of the folds {', '.join(folds)}; audit a single fold, "
            "give cases of your own, or add --allow-training-cases"
        )
        raise ValueError(msg)
    return [_complete(name, known, raw) for name in chosen]


def folder_cases(images: Path, labels: Path, channels: int, file_ending: str) -> list[Case]:
    """Own cases: images CASE_0000.nii.gz, CASE_0001.nii.gz, … and labels CASE.nii.gz.

    Images of a single channel may also be named exactly as their labels.

    Args:
        images: folder of the images.
        labels: folder of the label maps.
        channels: image channels of the model.
        file_ending: of the model's data set, for example ".nii.gz".

    Raises:
        FileNotFoundError: a folder is missing, or a link in it leads nowhere.
        ValueError: a folder is empty or holds other files, an image lacks its label or a label its image, a case has
            not the channels that the model wants, or a name that no folder may have.
    """
    label_files, found = _stems(labels, file_ending), dict[str, list[tuple[int, Path]]]()
    for stem, file in _stems(images, file_ending).items():
        channel = None if stem in label_files else re.fullmatch(r"(.+)_(\d{4})", stem)
        name, number = (channel[1], int(channel[2])) if channel else (stem, 0)
        found.setdefault(check_name(name, file), []).append((number, file))
    lonely = [f"{file} (no label)" for name in sorted(found.keys() - label_files.keys()) for _, file in found[name]]
    lonely += [f"{label_files[name]} (no image)" for name in sorted(label_files.keys() - found.keys())]
    if lonely:
        msg = f"images without a label, or labels without an image: {', '.join(lonely)}"
        raise ValueError(msg)
    for name, files in sorted(found.items()):
        if sorted(number for number, _ in files) != list(range(channels)):
            wanted = ", ".join(f"{name}_{number:04d}{file_ending}" for number in range(channels))
            shown = ", ".join(file.name for _, file in files)
            msg = f"{name} has {count(len(files), 'channel')} ({shown}), the model wants {channels} ({wanted})"
            raise ValueError(msg)
    return [Case(name, tuple(file for _, file in sorted(found[name])), label_files[name]) for name in sorted(found)]


def check_case(case: Case, model: TrainedModel) -> list[str]:
    """Return the faults of a case, one sentence each; empty: there are none.

    Looked for are: files that cannot be read, geometries that differ between channels or between image and label,
    voxels that are not finite or too large to be normalised, constant images, labels that the model does not know or
    without foreground.
    """
    if case.fault:
        return [case.fault]
    *images, label = files = [_File(file) for file in (*case.images, case.label)]
    faults = [f"{file.path} {file.fault}" for file in files if file.fault]
    for image in images:
        faults += [f"{image.path} {fault}" for fault in _image_faults(image)]
    faults += [f"{label.path} {fault}" for fault in _label_faults(label, model)]
    for other in files[1:]:
        if not (images[0].fault or other.fault):
            faults += [f"{other.path} {fault} ({images[0].path})" for fault in geometry_faults(images[0], other)]
    return [case.told(fault) for fault in faults]


class _File(Volume):
    """Any file that SimpleITK reads: voxels (X, Y, Z) and affine, or the reason why it cannot be read."""

    def __init__(self, path: Path) -> None:
        self.path, self.fault = path, ""
        self.voxels, self.affine = np.empty(0), np.eye(4)
        if not path.is_file():
            self.fault = "is missing"
            return
        try:
            if path.name.endswith(".gz"):
                read_gzip_to_end(path)
            image = sitk.ReadImage(str(path))
            self.voxels = _voxels(path, image)
        except Exception as error:  # a damaged file can raise anything
            self.fault = f"cannot be read: {last_line(error)}"
            return
        dimensions = image.GetDimension()
        if dimensions not in (2, 3):
            self.fault = f"has {dimensions} dimensions; expected 3, each channel in a file of its own"
        elif self.voxels.dtype.kind not in "biuf":
            self.fault = f"has voxels of type {self.voxels.dtype}, not numbers"
        else:
            axes = np.reshape(image.GetDirection(), (dimensions, dimensions)) * image.GetSpacing()
            self.affine[:dimensions, :dimensions] = axes
            self.affine[:dimensions, 3] = image.GetOrigin()


def _voxels(path: Path, image: sitk.Image) -> np.ndarray[Any, Any]:
    """Voxels (X, Y, Z), 2D images as one slice; the components of a colour image come last."""
    size = (*image.GetSize(), 1) if image.GetDimension() == 2 else image.GetSize()
    if path.name.endswith((".nii", ".nii.gz")):
        return np.asanyarray(cast(Any, nib.load(path)).dataobj).reshape(size)  # ITK reads NaN as 0
    array = sitk.GetArrayFromImage(image)
    axes = range(image.GetDimension())
    return array.transpose(*reversed(axes), *range(len(axes), array.ndim)).reshape(*size, *array.shape[len(axes) :])


def _image_faults(image: _File) -> Iterator[str]:
    if image.fault:
        return
    if bad := int(np.count_nonzero(~np.isfinite(image.voxels))):
        yield f"has {count(bad, 'voxel')} that are not finite"
    elif (largest := max(abs(float(image.voxels.min())), abs(float(image.voxels.max())))) > LARGEST:
        yield f"has voxels of up to {largest:g}, too large to be normalised in 32-bit floats"
    elif image.voxels.min() == image.voxels.max():
        yield f"is constant: every voxel is {image.voxels.flat[0]:g}"


def _label_faults(label: _File, model: TrainedModel) -> Iterator[str]:
    if label.fault:
        return
    manager, finite = model.label_manager, np.isfinite(label.voxels)
    if bad := int(np.count_nonzero(~finite)):
        yield f"has {count(bad, 'voxel')} that are not finite"
    found = np.unique(label.voxels[finite]).tolist()
    known = [int(value) for value in manager.all_labels]
    unknown = [value for value in found if value not in (*known, manager.ignore_label)]
    if unknown:
        shown = ", ".join(f"{value:g}" for value in unknown[:5]) + (", …" if len(unknown) > 5 else "")
        yield f"has label values {shown}, which the model does not know (it knows {', '.join(map(str, known))})"
    if not any(value in known and value != 0 for value in found):
        yield "holds no foreground: Dice is undefined"


def _raw_cases(raw: Path, info: Any) -> dict[str, tuple[list[Path], Path]]:
    """Image files and label file of every case by name."""
    file = raw / "dataset.json"
    known = isinstance(info, dict) and isinstance(info.get("file_ending"), str)
    if not (known and isinstance(info.get("dataset", {}), dict)):
        msg = f"{file} is not as nnU-Net wants it: it must name a file_ending, and its dataset must map names to files"
        raise ValueError(msg)
    if "dataset" in info:
        for name, entry in info["dataset"].items():
            check_name(name, file)
            if not (isinstance(entry, dict) and _texts(entry.get("images")) and _texts([entry.get("label")])):
                msg = f"{file}: the case {name} must have the files of its images and of its label, got {entry!r}"
                raise ValueError(msg)
        listed = get_filenames_of_train_images_and_targets(str(raw), info)
        return {name: (list(map(Path, entry["images"])), Path(entry["label"])) for name, entry in listed.items()}
    # nnU-Net's function does the same for the usual layout, with a pool of twelve processes.
    ending, found = info["file_ending"], dict[str, tuple[list[Path], Path]]()
    for stem, image in _stems(raw / "imagesTr", ending).items():
        name = check_name(stem[: -len("_0000")], image)
        found.setdefault(name, ([], raw / "labelsTr" / f"{name}{ending}"))[0].append(image)
    return found


def _texts(values: Any) -> bool:
    return isinstance(values, list) and bool(values) and all(isinstance(value, str) for value in values)


def _split(dataset: str, folds: Sequence[str], known: list[str]) -> tuple[dict[str, str], list[str]]:
    """Fold that was trained on it, of every training case; and the cases that are for validation in all folds."""
    if "all" in folds:
        return dict.fromkeys(known, "all"), []
    file = nnunet_folder("nnUNet_preprocessed") / dataset / "splits_final.json"
    splits = read_json(
        file, missing=f"it says which cases are for validation; train {dataset} here, or copy it from there"
    )
    if not isinstance(splits, list) or not all(
        isinstance(entry, dict) and all(isinstance(entry.get(part), list) for part in ("train", "val"))
        for entry in splits
    ):
        msg = f"{file} must be a list of folds with the names of their cases under train and val, as nnU-Net writes it"
        raise ValueError(msg)
    for name in (name for entry in splits for part in ("train", "val") for name in entry[part]):
        check_name(name, file)
    for fold in folds:
        if not fold.isdecimal() or int(fold) >= len(splits):
            msg = f"{file} holds the folds 0 to {len(splits) - 1}, but the model is of fold {fold}"
            raise ValueError(msg)
    trained = {name: fold for fold in folds for name in splits[int(fold)]["train"]}
    validation = {name for fold in folds for name in splits[int(fold)]["val"]}
    return trained, sorted(validation - trained.keys())


def _complete(name: str, known: dict[str, tuple[list[Path], Path]], raw: Path) -> Case:
    images, label = known.get(name, ([], raw / "labelsTr" / name))
    missing = [str(file) for file in (*images, label) if not file.is_file()] if images else [f"its images in {raw}"]
    if missing:
        msg = f"case {name} is incomplete: {', '.join(missing)} not found"
        raise FileNotFoundError(msg)
    return Case(name, tuple(images), label)


def _similar(name: str, known: dict[str, Any]) -> str:
    close = difflib.get_close_matches(name, known, n=3)
    return f"; did you mean {' or '.join(close)}?" if close else f"; it holds {', '.join(sorted(known)[:5])}, …"


def _stems(folder: Path, file_ending: str) -> dict[str, Path]:
    """Files of a folder by name without their ending, sorted."""
    if not folder.is_dir():
        msg = f"the folder {folder} does not exist"
        raise FileNotFoundError(msg)
    entries = sorted(entry for entry in folder.iterdir() if not entry.name.startswith("."))
    for entry in entries:
        if entry.is_symlink() and not entry.exists():
            raise FileNotFoundError(f"{entry} is a link that leads nowhere; mend or remove it")
    files = [entry for entry in entries if entry.is_file()]
    fitting = {file.name[: -len(file_ending)]: file for file in files if file.name.endswith(file_ending)}
    if not fitting:
        others = f"; it holds {', '.join(file.name for file in files[:3])}, …" if files else ", it is empty"
        msg = f"{folder} holds no file that ends in {file_ending}, as the model's data set does{others}"
        raise ValueError(msg)
    return fitting
