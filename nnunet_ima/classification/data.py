"""Images with their classes: from a folder per class, a CSV file or the files that a data set is published in."""

from __future__ import annotations

import csv
import os
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from nnunet_ima.classification.archive_images import from_archive
from nnunet_ima.classification.archives import KNOWN, find_archive
from nnunet_ima.classification.image_set import SPLITS, ImageSet
from nnunet_ima.classification.images import SUFFIXES, is_image, is_plain, pixel_digest, read_grey, resize, unit_range
from nnunet_ima.datasets.checks import count

COLUMNS = ("image", "label")


@dataclass(frozen=True)
class _Row:
    """A file and what the source says about it."""

    file: Path
    id: str
    label: str
    patient: str | None = None
    split: str | None = None


def load_images(
    source: Path,
    size: int | tuple[int, int] = 224,
    classes: Sequence[str] | None = None,
    skip_faulty: bool = False,
    show_progress: bool = True,
) -> ImageSet:
    """Read a data set: colours to grey first, then intensities to [0, 1], then the size.

    Only data sets in their original files keep their colours.

    Args:
        source: a folder that holds a folder per class with the images directly in it, or the original files of a data
            set (see `archives`), or a CSV file with the columns image and label and, if known, split (train,
            validation, test) and patient; its paths are absolute, or relative to its folder and inside of it.
        size: height and width in pixels; one number for both.
        classes: names of the classes, in the order of the labels 0, 1, ...; all that occur, sorted, if None. Of a
            folder only the named ones are read; in a CSV other labels are an error.
        skip_faulty: leave files out that cannot be read and list them in `ImageSet.skipped`.
        show_progress: draw a progress bar on stderr.

    Raises:
        FileNotFoundError: there is no such source, class or file.
        ValueError: the source is not laid out as above, files are faulty, or there are fewer than 2 classes.
    """
    height, width = (size, size) if isinstance(size, int) else size
    if min(height, width) < 1:
        msg = f"size must be at least 1 pixel, got {height}×{width}"
        raise ValueError(msg)
    if classes is not None and len(set(classes)) != len(classes):
        msg = f"classes must differ, got {', '.join(classes)}"
        raise ValueError(msg)
    if odd := [name for name in classes or () if not is_plain(name)]:
        raise ValueError(f"the name of the class {odd[0]!r} holds control characters; rename it")
    if source.is_dir() and (layout := find_archive(source)) is not None:
        return from_archive(source, layout, (height, width), classes)
    if source.is_dir():
        rows = _folder_rows(source, classes)
    elif source.is_file():
        rows = _csv_rows(source, classes)
    else:
        msg = f"{source} is missing: name a folder that holds a folder per class or {KNOWN}, or a CSV file"
        raise FileNotFoundError(msg)
    names = tuple(classes if classes is not None else sorted({row.label for row in rows}))
    if len(names) < 2:
        msg = f"{source} has a single class ({', '.join(names)}); a classifier needs at least 2"
        raise ValueError(msg)
    return _read_rows(source, rows, names, (height, width), skip_faulty, show_progress)


def duplicates(data: ImageSet) -> list[tuple[str, ...]]:
    """Return the ids of images whose decoded grey pixels are equal, a group each; nearly equal ones are not found."""
    groups: dict[str, list[str]] = defaultdict(list)
    for name, digest in zip(data.ids, data.digests, strict=True):
        groups[digest].append(name)
    return [tuple(group) for group in groups.values() if len(group) > 1]


def class_weights(labels: Tensor, classes: int) -> Tensor:
    """Return weights (classes,) of a loss: inverse to how often a class occurs in labels (N,), 1 on average.

    Raises:
        ValueError: a class does not occur.
    """
    counts = torch.bincount(labels, minlength=classes)
    if (counts == 0).any():
        msg = f"every class needs an image to have a weight, got {counts.tolist()} images per class"
        raise ValueError(msg)
    weights = 1 / counts.double()
    return (weights / weights.mean()).float()


def shorten(names: Sequence[str], most: int = 5) -> str:
    """Return names as a list of which at most so many are spelled out."""
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")


def _folder_rows(source: Path, classes: Sequence[str] | None) -> list[_Row]:
    inside = sorted(path for path in source.iterdir() if not path.name.startswith("."))
    present = [path.name for path in inside if path.is_dir()]
    for path in inside:
        if path.is_symlink() and not path.exists() and (classes is None or path.name in classes):
            raise FileNotFoundError(f"{path} is a link to nowhere; repair or remove it")
    if not present:
        msg = f"{source} holds no folders; it must hold a folder per class, such as {source / 'COVID'}, or {KNOWN}"
        raise FileNotFoundError(msg)
    if unknown := [name for name in classes or () if name not in present]:
        msg = f"{source} holds no folder {', '.join(unknown)}; it holds {shorten(present)}"
        raise FileNotFoundError(msg)
    rows = []
    for label in classes if classes is not None else present:
        if not is_plain(label):
            raise ValueError(f"{source}: the name of the folder {label!r} holds control characters; rename it")
        # links to nowhere stay in the list, so that reading names them
        files = sorted(file for file in (source / label).iterdir() if is_image(file) and not file.is_dir())
        if not files:
            msg = (
                f"{source / label} holds no images ({', '.join(SUFFIXES)}); put them directly into it, "
                "or name the folders that are classes"
            )
            raise FileNotFoundError(msg)
        rows += [_Row(file, f"{label}/{file.name}", label) for file in files]
    return rows


def _csv_rows(source: Path, classes: Sequence[str] | None) -> list[_Row]:
    try:
        with source.open(newline="", encoding="utf-8-sig") as stream:
            reader = csv.DictReader(stream, skipinitialspace=True)
            columns = [(name or "").strip() for name in reader.fieldnames or ()]
            reader.fieldnames = columns
            if twice := [name for name in columns if name and columns.count(name) > 1]:
                raise ValueError(f"{source} has several columns {twice[0]}; keep one of them")
            lines = []
            for line in reader:
                if None in line:
                    msg = f"{source}, line {reader.line_num}: it has more cells than the first line; quote commas"
                    raise ValueError(msg)
                lines.append((reader.line_num, {key: _cell(line, key) for key in columns}))
    except (UnicodeDecodeError, csv.Error) as error:
        msg = f"{source} is no CSV file in UTF-8 ({error}); save it as one"
        raise ValueError(msg) from error
    if missing := [name for name in COLUMNS if name not in columns]:
        msg = f"{source} has no column {' and no column '.join(missing)}; its first line says {', '.join(columns)!r}"
        raise ValueError(msg)
    if not lines:
        raise ValueError(f"{source} lists no images")
    rows: dict[str, _Row] = {}
    for number, cells in lines:
        row = _csv_row(source, f"{source}, line {number}", cells, classes)
        if row.id in rows:
            msg = f"{source}, line {number}: {row.id} is listed twice; keep one of the lines"
            raise ValueError(msg)
        rows[row.id] = row
    return list(rows.values())


def _csv_row(source: Path, where: str, cells: dict[str, str], classes: Sequence[str] | None) -> _Row:
    if empty := [name for name in (*COLUMNS, "patient", "split") if cells.get(name) == ""]:
        msg = f"{where}: {empty[0]} is empty; fill it in" + (
            " on every line, or remove the column" if empty[0] not in COLUMNS else ""
        )
        raise ValueError(msg)
    label, split = cells["label"], cells.get("split")
    if classes is not None and label not in classes:
        msg = f"{where}: label {label!r} is none of the classes {', '.join(classes)}"
        raise ValueError(msg)
    if split is not None and split not in SPLITS:
        msg = f"{where}: split {split!r} is none of {', '.join(SPLITS)}"
        raise ValueError(msg)
    for key in COLUMNS:
        if not is_plain(cells[key]):
            raise ValueError(f"{where}: {key} {cells[key]!r} holds control characters; rename it")
    name = Path(os.path.normpath(cells["image"]))
    if name.parts[:1] == ("..",):
        msg = f"{where}: image {cells['image']!r} is outside of the CSV file's folder"
        raise ValueError(f"{msg}; put the CSV file beside the images, or write the whole path")
    return _Row(source.parent / name, name.as_posix(), label, cells.get("patient"), split)


def _cell(line: dict[str, str | None], key: str) -> str:
    return (line[key] or "").strip()  # None if the line is too short


def _read_rows(
    source: Path,
    rows: list[_Row],
    classes: tuple[str, ...],
    size: tuple[int, int],
    skip_faulty: bool,
    show_progress: bool,
) -> ImageSet:
    try:
        images = torch.empty(len(rows), 1, *size)
    except RuntimeError as error:
        msg = f"{source}: {count(len(rows), 'image')} of {size[0]}×{size[1]} pixels do not fit into memory; lower size"
        raise ValueError(msg) from error
    kept: list[_Row] = []
    digests: list[str] = []
    formats: dict[str, set[bool]] = defaultdict(set)
    faults: list[Exception] = []
    for row in tqdm(rows, desc=f"Reading {source.name}", disable=not show_progress):
        try:
            if not is_plain(row.id):
                raise ValueError(f"{str(row.file)!r} has control characters in its name; rename it")
            grey = read_grey(row.file)
        except (ValueError, FileNotFoundError) as error:
            faults.append(error)
            continue
        images[len(kept)] = resize(unit_range(grey), size)
        digests.append(pixel_digest(grey))
        formats[row.label].add(grey.dtype == np.uint8)
        kept.append(row)
    if faults and not skip_faulty:
        missing = all(isinstance(fault, FileNotFoundError) for fault in faults)
        raise (FileNotFoundError if missing else ValueError)(_headline(faults))
    if lost := [name for name in classes if name not in formats]:
        msg = f"{source} has no readable image of class {', '.join(lost)}" + (f": {faults[0]}" if faults else "")
        raise ValueError(msg)
    patients = tuple(row.patient for row in kept if row.patient is not None)
    splits = tuple(row.split for row in kept if row.split is not None)
    return ImageSet(
        source=source,
        images=images[: len(kept)],
        labels=torch.tensor([classes.index(row.label) for row in kept]),
        classes=classes,
        ids=tuple(row.id for row in kept),
        digests=tuple(digests),
        patients=patients or None,
        splits=splits or None,
        skipped=tuple(str(fault) for fault in faults),
        notes=_notes(formats, bool(patients)),
    )


def _headline(faults: list[Exception]) -> str:
    if len(faults) == 1:
        return f"{faults[0]}; --skip-faulty leaves such images out"
    shown = "".join(f"\n  {fault}" for fault in faults[:10])
    more = f"\n  and {len(faults) - 10} more" if len(faults) > 10 else ""
    return f"{count(len(faults), 'image')} cannot be used; repair them or choose to skip faulty ones:{shown}{more}"


def _notes(formats: dict[str, set[bool]], patients_known: bool) -> tuple[str, ...]:
    """Say what in the data can make results better than they are."""
    notes = []
    if not patients_known:
        notes.append(
            "patients are not known: slices of one patient can be in several splits, so that results can be too good; "
            "a CSV file with the column patient keeps them apart"
        )
    if len({frozenset(kinds) for kinds in formats.values()}) > 1:
        kinds = "; ".join(
            f"{name}: {' and '.join('8-bit' if eight else 'other' for eight in sorted(found, reverse=True))}"
            for name, found in sorted(formats.items())
        )
        notes.append(
            f"the classes differ in number format ({kinds}) and thus in how intensities are scaled, which alone can "
            "give the class away; convert all images in the same way"
        )
    return tuple(notes)
