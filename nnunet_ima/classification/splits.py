"""Which images train, which choose the model, which test it: made once, stored, read again."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from nnunet_ima.classification.data import duplicates, shorten
from nnunet_ima.classification.holdout import draw_validation
from nnunet_ima.classification.image_set import SPLITS, ImageSet
from nnunet_ima.datasets.checks import count
from nnunet_ima.files import read_json, write_atomically

SHARES = (0.6, 0.2, 0.2)
Counts = np.ndarray[Any, np.dtype[Any]]


@dataclass(frozen=True)
class Splits:
    """Ids of the images of each split.

    Attributes:
        train: to fit the weights.
        validation: to choose the model and its settings.
        test: for the numbers that are reported.
        shares: what was asked for, of train and validation alone if the source names the test set, or None if it names
            all splits.
        seed: of the shuffling, or None if the source names all splits.
    """

    train: tuple[str, ...]
    validation: tuple[str, ...]
    test: tuple[str, ...]
    shares: tuple[float, ...] | None = None
    seed: int | None = None

    def ids(self) -> dict[str, tuple[str, ...]]:
        """Return the ids by the name of the split."""
        return {"train": self.train, "validation": self.validation, "test": self.test}

    def indices(self, data: ImageSet) -> dict[str, Tensor]:
        """Return for each split, by name, the places (n,) of its images in a data set that the splits fit."""
        place = {name: index for index, name in enumerate(data.ids)}
        return {
            split: torch.tensor([place[name] for name in names], dtype=torch.long)
            for split, names in self.ids().items()
        }


def open_splits(file: Path, data: ImageSet, shares: tuple[float, ...] = SHARES, seed: int = 0) -> Splits:
    """Return the stored splits of a data set; if none are, those that its source names, or new ones.

    Nothing is written: `write_splits` is for when all else is known to be in order.

    Args:
        file: JSON file beside the results, which need not exist.
        data: the data set.
        shares: of train, validation and test, if the source names no splits.
        seed: of the shuffling, if the source names no splits or no validation images.

    Raises:
        ValueError: the stored splits do not fit the data, or were made with other shares or another seed, or are not
            those that the source now names; or no splits can be made.
    """
    wanted = source_splits(data, seed) if data.splits is not None else None
    if data.validation_share is not None:
        shares = (1 - data.validation_share, data.validation_share)
    if not file.exists():
        return wanted or make_splits(data, shares, seed)
    splits = read_splits(file, data)
    way_out = "store the new ones in another file, or remove this one and what was trained with it"
    drawn = data.splits is None or data.validation_share is not None
    if drawn and (splits.shares, splits.seed) != (tuple(shares), seed):
        msg = f"{file} was made with shares {splits.shares} and seed {splits.seed}, not {tuple(shares)} and {seed}"
        raise ValueError(f"{msg}; {way_out}")
    if wanted is not None:
        differing = [name for split, names in wanted.ids().items() for name in {*names} ^ {*splits.ids()[split]}]
        if differing:
            msg = f"{file} differs from the splits in {data.source} for {shorten(sorted({*differing}))}; {way_out}"
            raise ValueError(msg)
    return splits


def make_splits(data: ImageSet, shares: tuple[float, ...] = SHARES, seed: int = 0) -> Splits:
    """Split at random, each class in the given shares.

    Images of one patient and images with equal pixels stay together. Where all stand alone, each class meets its shares
    exactly up to rounding; else as nearly as an improvement step by step gets.

    Args:
        data: the data set.
        shares: of train, validation and test.
        seed: of the shuffling; the same seed and data give the same splits.

    Raises:
        ValueError: shares are no positive numbers with sum 1, or a class has too few images (patients) for 3 splits.
    """
    if len(shares) != len(SPLITS) or min(shares) <= 0 or abs(sum(shares) - 1) > 1e-6:
        msg = f"shares must be 3 positive numbers (train, validation, test) with sum 1, got {shares}"
        raise ValueError(msg)
    units = _units(data)
    labels = data.labels.numpy()
    content = np.array([np.bincount(labels[unit], minlength=len(data.classes)) for unit in units])
    for name, images, groups in zip(data.classes, content.sum(0), (content > 0).sum(0), strict=True):
        if groups < len(SPLITS):
            msg = (
                f"{data.source}: class {name} has {count(int(images), 'image')} in {count(int(groups), 'group')} "
                f"(patients, equal images) that must stay together; {len(SPLITS)} splits need at least {len(SPLITS)}"
            )
            raise ValueError(msg)
    targets = np.stack([_target(int(total), shares) for total in content.sum(0)], axis=1)
    owners = _assign(content, targets, np.random.default_rng(seed))
    owner = {data.ids[i]: SPLITS[s] for unit, s in zip(units, owners, strict=True) for i in unit}
    splits = _gather({name: owner[name] for name in data.ids}, tuple(shares), seed)
    _check(splits, data, str(data.source))
    return splits


def source_splits(data: ImageSet, seed: int = 0) -> Splits:
    """Return the splits that the source (a CSV with the column split, or an archive) names.

    Args:
        data: the data set.
        seed: of the drawing of validation images, if the source names none; see `ImageSet.validation_share`.

    Raises:
        ValueError: it names none, or one that is empty or lacks a class, or a patient is in several. Equal images in
            several splits are no error; see `leaks`.
    """
    if data.splits is None:
        msg = f"{data.source} names no splits; only a CSV file with the column split does"
        raise ValueError(msg)
    owner = dict(zip(data.ids, data.splits, strict=True))
    if data.validation_share is None:
        splits = _gather(owner)
    else:
        drawn = draw_validation(data, data.validation_share, seed)
        owner |= dict.fromkeys((data.ids[place] for place in drawn), "validation")
        splits = _gather(owner, (1 - data.validation_share, data.validation_share), seed)
    _check(splits, data, str(data.source))
    return splits


def leaks(splits: Splits, data: ImageSet) -> list[tuple[str, ...]]:
    """Return the ids of images with equal grey pixels that are not all in one split, a group each."""
    owner = {name: split for split, names in splits.ids().items() for name in names}
    return [group for group in duplicates(data) if len({owner[name] for name in group}) > 1]


def write_splits(splits: Splits, file: Path) -> None:
    """Store splits as JSON."""
    file.parent.mkdir(parents=True, exist_ok=True)
    stored = {"shares": splits.shares, "seed": splits.seed, **splits.ids()}
    write_atomically(file, json.dumps(stored, indent=1, ensure_ascii=False) + "\n")


def read_splits(file: Path, data: ImageSet) -> Splits:
    """Read stored splits and check that they fit the data.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it holds no splits, or not those of these images: some are missing, new or twice in it, or a patient
            is in several splits.
    """
    way_out = "remove it to have new splits made"
    stored = read_json(file, missing="no splits have been stored yet", damaged=way_out)
    if not isinstance(stored, dict) or not all(_is_names(stored.get(name)) for name in SPLITS):
        msg = f"{file} does not list image names under {', '.join(SPLITS)}; {way_out}"
        raise ValueError(msg)
    shares = stored.get("shares")
    train, validation, test = (tuple(stored[name]) for name in SPLITS)
    splits = Splits(train, validation, test, tuple(shares) if isinstance(shares, list) else None, stored.get("seed"))
    _check(splits, data, str(file))
    return splits


def _gather(owner: dict[str, str], shares: tuple[float, ...] | None = None, seed: int | None = None) -> Splits:
    """Return the splits, given the name of the split that each image is in."""
    train, validation, test = (tuple(name for name, split in owner.items() if split == wanted) for wanted in SPLITS)
    return Splits(train, validation, test, shares, seed)


def _is_names(value: object) -> bool:
    return isinstance(value, list) and all(isinstance(name, str) for name in value)


def _check(splits: Splits, data: ImageSet, where: str) -> None:
    """Raise ValueError if splits do not fit a data set or share images or patients."""
    listed = [name for names in splits.ids().values() for name in names]
    faults = {
        "lists images that are missing": sorted({*listed} - {*data.ids}),
        "does not list": sorted({*data.ids} - {*listed}),
        "lists more than once": sorted(name for name, times in Counter(listed).items() if times > 1),
    }
    if found := [f"{fault}: {shorten(names)}" for fault, names in faults.items() if names]:
        skipped = f" ({count(len(data.skipped), 'faulty file')} skipped)" if data.skipped else ""
        msg = f"{where} does not fit {data.source}{skipped}; it {'; it '.join(found)}. Restore the data or split anew"
        raise ValueError(msg)
    indices = splits.indices(data)
    for split, chosen in indices.items():
        if not len(chosen):
            raise ValueError(f"{where}: split {split} is empty; every one of {', '.join(SPLITS)} needs images")
        present = set(data.labels[chosen].tolist())
        if lacking := [name for label, name in enumerate(data.classes) if label not in present]:
            msg = f"{where}: split {split} has no image of class {', '.join(lacking)}"
            raise ValueError(f"{msg}; move some there, add images, or try another seed")
    if data.patients is not None:
        patients = [{data.patients[i] for i in chosen.tolist()} for chosen in indices.values()]
        shared = sorted(
            name for name, times in Counter(name for names in patients for name in names).items() if times > 1
        )
        if shared:
            msg = f"{where}: patients in more than one split: {shorten(shared)}; keep each in a single one"
            raise ValueError(msg)


def _units(data: ImageSet) -> list[list[int]]:
    """Return the images by place, grouped so that no patient and no picture is in two groups."""
    group = list(range(len(data)))

    def root(i: int) -> int:
        while group[i] != i:
            i = group[i] = group[group[i]]
        return i

    for keys in (data.digests, data.patients or ()):
        first: dict[str, int] = {}
        for i, key in enumerate(keys):
            group[root(i)] = root(first.setdefault(key, i))
    units: dict[int, list[int]] = {}
    for i in range(len(data)):
        units.setdefault(root(i), []).append(i)
    return list(units.values())


def _target(total: int, shares: tuple[float, ...]) -> Counts:
    """Return how many of `total` images each split should get: largest remainders, at least 1 each."""
    exact = total * np.array(shares)
    target = np.floor(exact + 1e-9).astype(int)
    target[np.argsort(target - exact, kind="stable")[: total - target.sum()]] += 1
    while (target == 0).any():
        target[target.argmax()] -= 1
        target[target.argmin()] += 1
    return target


def _assign(content: Counts, targets: Counts, rng: np.random.Generator) -> Counts:
    """Return the split (U,) of each unit, such that the splits come close to their targets and none lacks a class.

    Args:
        content: images of each class in each unit (U, classes).
        targets: images of each class wanted in each split (splits, classes).
        rng: shuffles the units.
    """
    order = rng.permutation(len(content))
    order = order[np.argsort(-content[order].sum(1), kind="stable")]  # large ones first, small ones fill up
    choices = [_place(content, targets, order, complete_first) for complete_first in (False, True)]
    return min(choices, key=lambda choice: choice[0])[1]


def _place(content: Counts, targets: Counts, order: Counts, complete_first: bool) -> tuple[float, Counts]:
    """Place units in this order, then move single ones as long as that helps; return the cost and the splits (U,)."""

    def cost(have: Counts, complete: bool) -> float:
        return float(((have - targets) ** 2 / targets).sum() + 1e9 * complete * (have == 0).sum())

    parts = np.eye(len(targets), dtype=int)[:, :, None]
    owners = np.zeros(len(content), dtype=int)
    have = np.zeros_like(targets)
    for unit in order:
        owners[unit] = np.argmin([cost(have + part * content[unit], complete_first) for part in parts])
        have += parts[owners[unit]] * content[unit]
    moved = True
    while moved:
        moved = False
        for unit in order:
            others = have - parts[owners[unit]] * content[unit]
            costs = [cost(others + part * content[unit], complete=True) for part in parts]
            best = int(np.argmin(costs))
            if costs[best] < costs[owners[unit]] - 1e-6:
                owners[unit], have, moved = best, others + parts[best] * content[unit], True
    return cost(have, complete=True), owners
