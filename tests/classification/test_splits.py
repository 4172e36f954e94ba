"""Splits are stratified, keep patients and equal pictures together, and are stored."""

import dataclasses
import itertools
import json
from pathlib import Path

import numpy as np
import pytest
import torch

from nnunet_ima.classification.image_set import ImageSet
from nnunet_ima.classification.splits import (
    SHARES,
    Splits,
    _assign,
    _target,
    leaks,
    make_splits,
    open_splits,
    read_splits,
    source_splits,
    write_splits,
)


def dataset(counts: tuple[int, ...], patients: list[str] | None = None, splits: list[str] | None = None) -> ImageSet:
    """Return a data set of empty images that count as different."""
    number = sum(counts)
    ids = tuple(f"{i:03d}.png" for i in range(number))
    return ImageSet(
        source=Path("somewhere"),
        images=torch.zeros(number, 1, 1, 1),
        labels=torch.arange(len(counts)).repeat_interleave(torch.tensor(counts)),
        classes=tuple("abcdef"[: len(counts)]),
        ids=ids,
        digests=ids,
        patients=tuple(patients) if patients else None,
        splits=tuple(splits) if splits else None,
    )


def table(splits: Splits, data: ImageSet) -> list[list[int]]:
    """Images of each class in each split."""
    chosen = splits.indices(data).values()
    return [torch.bincount(data.labels[places], minlength=len(data.classes)).tolist() for places in chosen]


def assert_partition(splits: Splits, data: ImageSet) -> None:
    assert sorted(name for names in splits.ids().values() for name in names) == sorted(data.ids)


@pytest.mark.parametrize(
    ("counts", "expected"),
    [
        ((100, 50), [[60, 30], [20, 10], [20, 10]]),
        ((1152, 1129), [[691, 677], [231, 226], [230, 226]]),
        ((3, 4, 5), [[1, 2, 3], [1, 1, 1], [1, 1, 1]]),
    ],
)
def test_shares_are_met_exactly_without_groups(counts: tuple[int, ...], expected: list[list[int]]) -> None:
    data = dataset(counts)
    splits = make_splits(data)
    assert table(splits, data) == expected
    assert_partition(splits, data)


def test_seed_decides() -> None:
    data = dataset((50, 50))
    assert make_splits(data, seed=3) == make_splits(data, seed=3)
    assert make_splits(data, seed=3).test != make_splits(data, seed=4).test
    often = np.zeros(100)
    for seed in range(150):
        often[make_splits(data, seed=seed).indices(data)["test"].numpy()] += 1
    assert often.min() > 10  # every image is in the test split in a fifth of the cases: 30 ± 5
    assert often.max() < 55


def test_no_patient_is_in_two_splits() -> None:
    rng = np.random.default_rng(0)
    patients = [f"p{i}" for i in rng.integers(0, 40, 300)]
    data = dataset((200, 100), patients)  # many patients have images of both classes
    splits = make_splits(data)
    owners = [{patients[i] for i in places.tolist()} for places in splits.indices(data).values()]
    assert all(a.isdisjoint(b) for a, b in itertools.combinations(owners, 2))
    assert_partition(splits, data)
    assert np.abs(np.array(table(splits, data)) / [200, 100] - np.array(SHARES)[:, None]).max() < 0.03


def test_equal_pictures_stay_together_and_bridge_patients() -> None:
    data = dataset((20, 20), [f"p{i // 2}" for i in range(40)])
    digests = list(data.digests)
    digests[1] = digests[2] = digests[25] = "same"  # of patients 0, 1 and 12, in two classes
    data = dataclasses.replace(data, digests=tuple(digests))
    for seed in range(20):
        splits = make_splits(data, seed=seed)
        assert leaks(splits, data) == []
        together = {data.ids[i] for i in (0, 1, 2, 3, 24, 25)}
        assert any(together <= {*names} for names in splits.ids().values())


def test_leaks_of_given_splits_are_reported() -> None:
    data = dataset((3, 3), splits=["train", "validation", "test"] * 2)
    data = dataclasses.replace(data, digests=("x", "x", "y", "z", "y", "w"))
    splits = source_splits(data)
    assert splits == Splits(("000.png", "003.png"), ("001.png", "004.png"), ("002.png", "005.png"))
    assert leaks(splits, data) == [("000.png", "001.png"), ("002.png", "004.png")]


def test_groups_are_placed_about_as_well_as_can_be() -> None:
    """Compared with all ways to place a few groups: never incomplete if a complete one exists, hardly worse."""
    rng = np.random.default_rng(0)
    gaps = []
    while len(gaps) < 40:
        content = rng.integers(0, 12, (rng.integers(4, 7), 2))
        targets = np.stack([_target(int(total), SHARES) for total in content.sum(0)], axis=1)

        def cost(owners: np.ndarray, content: np.ndarray = content, targets: np.ndarray = targets) -> float:
            have = np.stack([content[owners == s].sum(0) for s in range(3)])
            return float(((have - targets) ** 2 / targets).sum()) if have.all() else np.inf

        best = min(cost(np.array(owners)) for owners in itertools.product(range(3), repeat=len(content)))
        if best < np.inf:
            gaps.append(cost(_assign(content, targets, rng)) - best)
    assert max(gaps) < np.inf
    assert np.median(gaps) < 1


@pytest.mark.parametrize("shares", [(0.6, 0.4), (0.6, 0.4, 0.0), (0.6, 0.3, 0.2), (1.2, -0.1, -0.1)])
def test_shares_must_make_sense(shares: tuple[float, ...]) -> None:
    with pytest.raises(ValueError, match="shares must be 3 positive numbers"):
        make_splits(dataset((10, 10)), shares)


def test_too_few_images_or_patients() -> None:
    with pytest.raises(ValueError, match="class b has 2 images in 2 groups"):
        make_splits(dataset((10, 2)))
    with pytest.raises(ValueError, match="class a has 10 images in 1 group "):
        make_splits(dataset((10, 10), ["p"] * 10 + [f"q{i}" for i in range(10)]))


@pytest.mark.parametrize(
    ("splits", "message"),
    [
        (["train", "train", "test"] * 2, "split validation is empty"),
        (["train", "validation", "test", "train", "validation", "train"], "split test has no image of class b"),
    ],
)
def test_named_splits_must_be_complete(splits: list[str], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        source_splits(dataset((3, 3), splits=splits))


def test_named_splits_must_keep_patients_apart() -> None:
    data = dataset((3, 3), ["p", "q", "r", "p", "q", "q"], ["train", "validation", "test"] * 2)
    with pytest.raises(ValueError, match="patients in more than one split: q; keep"):
        source_splits(data)
    with pytest.raises(ValueError, match="names no splits"):
        source_splits(dataset((3, 3)))


def test_stored_splits_come_back(tmp_path: Path) -> None:
    data = dataset((20, 10))
    file = tmp_path / "results" / "splits.json"
    made = open_splits(file, data, seed=5)
    assert made == make_splits(data, seed=5)
    assert not file.parent.exists()  # storing them is for later, when all is known to be in order
    write_splits(made, file)
    assert open_splits(file, data, seed=5) == read_splits(file, data) == made
    with pytest.raises(ValueError, match=r"made with shares .* and seed 5, not .* and 6"):
        open_splits(file, data, seed=6)


def test_splits_of_the_source_are_stored_and_compared(tmp_path: Path) -> None:
    data = dataset((3, 3), splits=["train", "validation", "test"] * 2)
    file = tmp_path / "splits.json"
    write_splits(open_splits(file, data), file)
    assert open_splits(file, data) == source_splits(data) == read_splits(file, data)
    changed = dataclasses.replace(data, splits=("train", "validation", "test", "validation", "train", "test"))
    with pytest.raises(ValueError, match=r"differs from the splits in somewhere for 003\.png, 004\.png; store"):
        open_splits(file, changed)


def test_stored_splits_of_other_data_are_refused(tmp_path: Path) -> None:
    data = dataset((20, 10))
    file = tmp_path / "splits.json"
    write_splits(make_splits(data), file)
    renamed = dataclasses.replace(data, ids=("new.png", *data.ids[1:]), skipped=("bad.png cannot be read",))
    message = r"\(1 faulty file skipped\); it lists images that are missing: 000\.png; it does not list: new\.png"
    with pytest.raises(ValueError, match=message):
        read_splits(file, renamed)
    stored = json.loads(file.read_text())
    stored["test"].append(stored["train"][0])
    file.write_text(json.dumps(stored))
    with pytest.raises(ValueError, match=f"lists more than once: {stored['train'][0]}"):
        read_splits(file, data)


@pytest.mark.parametrize("text", ["{", "[]", '{"train": ["a"], "validation": "b", "test": []}'])
def test_damaged_files_are_refused(tmp_path: Path, text: str) -> None:
    file = tmp_path / "splits.json"
    with pytest.raises(FileNotFoundError, match="no splits have been stored yet"):
        read_splits(file, dataset((5, 5)))
    file.write_text(text)
    with pytest.raises(ValueError, match=r"splits\.json .*remove it to have new splits made"):
        read_splits(file, dataset((5, 5)))
