"""Whatever stands in a file, its reader takes it or refuses it in a sentence: no other error, no hang, nothing written.

A valid file is damaged at random: a value of its JSON is another one, or gone; bytes are others, or missing. More
examples than CI has time for: HYPOTHESIS_PROFILE=long python -m pytest tests/bad_input/test_any_content.py
"""

from __future__ import annotations

import copy
import json
import os
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass, is_dataclass
from inspect import getmembers, isclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from nnunet_ima._methods import METHODS
from nnunet_ima.checkpoints import load_checkpoint
from nnunet_ima.classification import records as records_of_classifiers
from nnunet_ima.classification.archives.idx import read_idx
from nnunet_ima.classification.archives.plain_pickle import load_plain
from nnunet_ima.classification.data import load_images
from nnunet_ima.datasets.overlay import read_plans
from nnunet_ima.evidence import records
from nnunet_ima.evidence.protocol import lock, make_protocol, read_protocol
from nnunet_ima.evidence.schema import from_json, to_json
from nnunet_ima.evidence.store import Store
from nnunet_ima.inference.cases import dataset_cases
from nnunet_ima.inference.plans import read_configuration, read_model_json
from nnunet_ima.report.about import read_about
from nnunet_ima.report.cards import SCHEMA as CARDS_SCHEMA
from nnunet_ima.report.cards import Card, Level, as_text, read_cards
from nnunet_ima.report.strata import read_strata
from nnunet_ima.shift.likeness import Likeness, read_likeness, write_likeness
from nnunet_ima.training.settings import resolve_settings
from nnunet_ima.training.snapshots import Snapshot, add_snapshots, read_snapshots

SHARED = {"deadline": None, "suppress_health_check": list(HealthCheck), "database": None}
settings.register_profile("short", max_examples=40, derandomize=True, **SHARED)
settings.register_profile("long", max_examples=5000, **SHARED)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "short"))

REFUSALS = (ValueError, OSError)  # what a command turns into its sentence

SCALARS = (
    st.none()
    | st.booleans()
    | st.integers(-(10**20), 10**20)
    | st.floats()
    | st.sampled_from(["", "..", "/etc/passwd", "a\x00b", "\ud800", "nan", "2d", "L2", -1, 0, 1, 10**400])
    | st.text(max_size=8)
)
JSON = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3)
)


def places(content: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Where the values of a JSON document are, the document itself included."""
    yield path
    entries = content.items() if isinstance(content, dict) else enumerate(content) if isinstance(content, list) else ()
    for key, value in entries:
        yield from places(value, (*path, key))


@st.composite
def damaged(draw: st.DrawFn, content: Any) -> Any:
    """A document in which up to three values are others, or gone."""
    content = copy.deepcopy(content)
    for _ in range(draw(st.integers(1, 3))):
        path = draw(st.sampled_from(list(places(content))))
        value = draw(JSON)
        if not path:
            content = value
            continue
        parent = content
        for key in path[:-1]:
            parent = parent[key]
        if draw(st.booleans()):
            parent[path[-1]] = value
        else:
            parent.pop(path[-1])
    return content


@st.composite
def damaged_bytes(draw: st.DrawFn, raw: bytes) -> bytes:
    """A file that is cut off, or of which some bytes are others, or more."""
    content = bytearray(raw)
    for _ in range(draw(st.integers(1, 4))):
        at = draw(st.integers(0, len(content)))
        kind = draw(st.sampled_from(["cut", "change", "insert", "remove"]))
        if kind == "cut":
            del content[at:]
        elif kind == "change" and at < len(content):
            content[at] = draw(st.integers(0, 255))
        elif kind == "insert":
            content[at:at] = draw(st.binary(max_size=6))
        else:
            del content[at : at + draw(st.integers(1, 6))]
    return bytes(content)


def sentence(read: Callable[[], Any]) -> str | None:
    """What a reader refuses a file with; None: it takes it."""
    try:
        read()
    except REFUSALS as error:
        return str(error)
    return None


def taken_or_refused(read: Callable[[], Any], folder: Path) -> None:
    before = {file: file.stat().st_mtime_ns for file in folder.rglob("*")}
    assert sentence(read) != "", "a refusal without a reason"
    assert {file: file.stat().st_mtime_ns for file in folder.rglob("*")} == before


# --- JSON ---------------------------------------------------------------------------------------------------


@dataclass
class Document:
    """A file of JSON, what is valid in it, and who reads it."""

    file: Path
    content: Any
    read: Callable[[], Any]


def of_plans(home: Path, phantom: Any, patch: pytest.MonkeyPatch) -> Document:
    content = json.loads((phantom.preprocessed / "nnUNetPlans.json").read_text())
    del content["configurations"]["3d_fullres"]  # it holds nothing of another kind
    shutil.copy(phantom.preprocessed / "dataset.json", home)

    def read() -> None:
        plans, _ = read_model_json(home)
        read_configuration(plans, "2d", 1, home / "plans.json", home / "checkpoint.pth")

    return Document(home / "plans.json", content, read)


def of_dataset_json(home: Path, phantom: Any, patch: pytest.MonkeyPatch) -> Document:
    shutil.copy(phantom.preprocessed / "nnUNetPlans.json", home / "plans.json")
    content = json.loads((phantom.preprocessed / "dataset.json").read_text())
    return Document(home / "dataset.json", content, lambda: read_model_json(home))


def of_training_settings(home: Path, phantom: Any, patch: pytest.MonkeyPatch) -> Document:
    file = home / "nnUNetPlans.json"
    content = {
        "plans_name": "nnUNetPlans",
        "dataset_name": "Dataset004_Hippocampus",
        "configurations": {"2d": {}},
        "schedule": {"epochs": 3, "norm": "L2", "tau": 0.6, "start_from": None, "average": 0.1},
        **{method: {"eps": 5.0} for method in METHODS if method != "plain"},
        "ima": {"eps": 15, "delta": 2, "beta": 0.5},
    }

    def read() -> None:
        plans = read_plans(file)
        refusals = []
        for method in METHODS:
            try:
                resolve_settings(plans, method)
            except REFUSALS as error:
                refusals.append(error)
        if refusals:
            raise refusals[0]

    return Document(file, content, read)


def of_splits(home: Path, phantom: Any, patch: pytest.MonkeyPatch) -> Document:
    raw = home / "raw" / phantom.name
    shutil.copytree(phantom.raw, raw)
    file = home / "preprocessed" / phantom.name / "splits_final.json"
    file.parent.mkdir(parents=True)
    patch.setenv("nnUNet_raw", str(raw.parent))
    patch.setenv("nnUNet_preprocessed", str(file.parent.parent))
    names = sorted(it.name.removesuffix(".nii.gz") for it in (raw / "labelsTr").iterdir())
    content = [{"train": names[:4], "val": names[4:]}, {"train": names[2:], "val": names[:2]}]
    return Document(file, content, lambda: dataset_cases(phantom.name, ["0"]))


def of_raw_dataset(home: Path, phantom: Any, patch: pytest.MonkeyPatch) -> Document:
    found = of_splits(home, phantom, patch)
    found.file.write_text(json.dumps(found.content))
    file = home / "raw" / phantom.name / "dataset.json"
    names = found.content[0]["train"] + found.content[0]["val"]
    listed = {name: {"images": [f"imagesTr/{name}_0000.nii.gz"], "label": f"labelsTr/{name}.nii.gz"} for name in names}
    content = {**json.loads(file.read_text()), "dataset": listed}
    return Document(file, content, found.read)


def of_snapshots(home: Path, phantom: Any, patch: pytest.MonkeyPatch) -> Document:
    for epoch in (5, 10):
        entry = Snapshot(epoch, f"snapshots/epoch_{epoch:04d}.pth", 0.9, 0.5, 5.0, 3.0, 9.0)
        (home / "snapshots").mkdir(exist_ok=True)
        (home / entry.file).write_bytes(b"")
        add_snapshots(home, [entry])
    file = home / "ima_snapshots.json"
    return Document(file, json.loads(file.read_text()), lambda: read_snapshots(home))


def of_cards(home: Path, phantom: Any, patch: pytest.MonkeyPatch) -> Document:
    level = Level(eps=5.0, sigma=0.1, mean=0.5, low=0.4, high=0.6, worst=0.1)
    card = Card(
        schema=CARDS_SCHEMA,
        model="ima",
        configuration="2d",
        trainer="nnUNetTrainerIMA",
        weights={"fold_0/checkpoint_final.pth": "ab"},
        cases=12,
        case_set="cd",
        attacks=("pgd",),
        protocol="ef",
        norm="L2",
        unit="reference",
        levels=(level,),
        median_margin=None,
        conclusive=True,
        made_with="0.2",
    )
    return Document(home / "card.json", json.loads(as_text([card])), lambda: read_cards(home))


def of_likeness(home: Path, phantom: Any, patch: pytest.MonkeyPatch) -> Document:
    features = {"noise": 0.1, "spacing": 1.0}
    kinds = {"int": 3, "float": 0.5, "str": "x"}
    given_ = {"median": features, "spread": features, "orientations": ("RAS",)}
    values = {name: given_.get(name, kinds.get(str(kind), 1)) for name, kind in Likeness.__annotations__.items()}
    file = write_likeness(Likeness(**values), home)
    return Document(file, json.loads(file.read_text()), lambda: read_likeness(home))


def of_manifest(home: Path, phantom: Any, patch: pytest.MonkeyPatch) -> Document:
    question = {"models": {"plain": {"hash": "ab"}}, "cases": {"one": "cd"}, "settings": {"seed": 0}}
    provenance = {"versions": {"torch": "2"}, "device": "cpu"}
    Store(home, question, provenance)
    file = home / "manifest.json"
    content = json.loads(file.read_text())

    def read() -> None:
        before, when = file.read_bytes(), file.stat().st_mtime_ns
        try:
            Store(home, question, provenance)
        finally:  # a store that goes on renews its manifest
            file.write_bytes(before)
            os.utime(file, ns=(when, when))

    return Document(file, content, read)


@pytest.mark.parametrize(
    "make",
    [
        of_plans,
        of_dataset_json,
        of_training_settings,
        of_splits,
        of_raw_dataset,
        of_snapshots,
        of_cards,
        of_likeness,
        of_manifest,
    ],
)
def test_json(make: Callable[..., Document], phantom: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    document = make(tmp_path, phantom, monkeypatch)
    document.file.write_text(json.dumps(document.content))
    document.read()  # what is valid is taken

    @given(damaged(document.content))
    def check(content: Any) -> None:
        document.file.write_text(json.dumps(content), encoding="utf-8", errors="surrogatepass")
        taken_or_refused(document.read, tmp_path)

    check()


RECORDS = [
    kind
    for module in (records, records_of_classifiers)
    for _, kind in getmembers(module, isclass)
    if is_dataclass(kind) and kind.__module__ == module.__name__
]


@pytest.mark.parametrize("kind", RECORDS, ids=lambda kind: f"{kind.__module__.split('.')[1]}-{kind.__name__}")
def test_records(kind: type) -> None:
    @settings(max_examples=12)
    @given(st.data())
    def check(data: st.DataObject) -> None:
        record = data.draw(st.builds(kind))
        content = json.loads(json.dumps(to_json(record)))
        assert repr(from_json(kind, content)) == repr(record)  # NaN is not equal to itself
        hurt = data.draw(damaged(content))
        assert sentence(lambda: from_json(kind, hurt)) != "", "a refusal without a reason"

    check()


# --- texts and binary files ---------------------------------------------------------------------------------


def a_protocol(home: Path) -> tuple[Path, Callable[[Path], Any]]:
    file = home / "protocol.toml"
    lock(make_protocol({"models": {"plain": "ab"}, "seed": 0}, {"attacks": ["pgd"], "eps": [0, 5]}, 3, ["0.8@5"]), file)
    return file, read_protocol


def an_about(home: Path) -> tuple[Path, Callable[[Path], Any]]:
    file = home / "about.toml"
    file.write_text('intended_use = "none"\nsites = "two"\n[[acceptance]]\ndice = 0.8\neps = 5\n')
    return file, read_about


def strata(home: Path) -> tuple[Path, Callable[[Path], Any]]:
    file = home / "strata.csv"
    file.write_text('case,site,sex\none,"A, B",f\ntwo,C,m\nthree,,\n')
    return file, read_strata


def images_as_csv(home: Path) -> tuple[Path, Callable[[Path], Any]]:
    from PIL import Image

    for name in "abcd":
        Image.fromarray(np.full((4, 4), ord(name), np.uint8)).save(home / f"{name}.png")
    file = home / "images.csv"
    file.write_text("image,label,patient,split\n" + "".join(f"{n}.png,{n < 'c'},{n},train\n" for n in "abcd"))
    return file, lambda file: load_images(file, size=4, show_progress=False)


def a_checkpoint(home: Path) -> tuple[Path, Callable[[Path], Any]]:
    file = home / "checkpoint_final.pth"
    torch.save({"network_weights": {"w": torch.ones(3)}, "init_args": {"fold": 0}, "trainer_name": "T"}, file)
    return file, lambda file: load_checkpoint(file, needs=("network_weights",))


def an_idx_file(home: Path) -> tuple[Path, Callable[[Path], Any]]:
    file = home / "train-images-idx3-ubyte"
    file.write_bytes(bytes([0, 0, 8, 3, 0, 0, 0, 2, 0, 0, 0, 4, 0, 0, 0, 4]) + bytes(32))
    return file, lambda file: read_idx(file, 3)


def a_pickle(home: Path) -> tuple[Path, Callable[[Path], Any]]:
    import pickle

    file = home / "data_batch_1"
    file.write_bytes(pickle.dumps({b"data": np.zeros((2, 12), np.uint8), b"labels": [0, 1]}, protocol=2))
    return file, load_plain


@pytest.mark.parametrize(
    "make",
    [a_protocol, an_about, strata, images_as_csv, a_checkpoint, an_idx_file, a_pickle],
    ids=lambda it: it.__name__,
)
def test_bytes(make: Callable[[Path], tuple[Path, Callable[[Path], Any]]], tmp_path: Path) -> None:
    file, read = make(tmp_path)
    whole = file.read_bytes()
    read(file)  # what is valid is taken

    @given(damaged_bytes(whole))
    def check(content: bytes) -> None:
        file.write_bytes(content)
        taken_or_refused(lambda: read(file), tmp_path)

    check()
