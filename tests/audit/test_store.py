"""Results are whole or not there, and never mixed with those of another audit."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import BinaryIO

import numpy as np
import pytest
import torch

from nnunet_ima.audit.store import Store, sha256

QUESTION = {"settings": {"eps": (1, 2)}, "models": {"m": "abc"}}


def test_results_are_found_again(tmp_path: Path) -> None:
    store = Store(tmp_path / "out", QUESTION, {"torch": "1"})
    assert store.get("m", "case", "pgd@1") is None
    store.put({"dice": 0.1 + 0.2}, "m", "case", "pgd@1")
    again = Store(tmp_path / "out", QUESTION, {"torch": "1"})
    assert again.get("m", "case", "pgd@1") == {"dice": 0.1 + 0.2}


def test_every_machine_that_took_part_is_named_once(tmp_path: Path) -> None:
    for torch_version in ("1", "2", "1"):
        Store(tmp_path, QUESTION, {"torch": torch_version})
    manifest = json.loads((tmp_path / "manifest.json").read_text())
    assert manifest["provenance"] == [{"torch": "1"}, {"torch": "2"}]


def test_another_audit_is_refused_and_loses_nothing(tmp_path: Path) -> None:
    store = Store(tmp_path, QUESTION, {})
    store.put({"dice": 1}, "m", "case", "clean")
    before = (tmp_path / "manifest.json").read_text()
    with pytest.raises(ValueError, match="an audit with other models, settings"):
        Store(tmp_path, {"settings": {"eps": (1,)}, "models": {}}, {})
    assert (tmp_path / "manifest.json").read_text() == before
    assert store.get("m", "case", "clean") == {"dice": 1}


def test_foreign_files_are_refused(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("precious")
    with pytest.raises(ValueError, match="holds other files; choose an empty folder with --output"):
        Store(tmp_path, QUESTION, {})
    assert [file.name for file in tmp_path.iterdir()] == ["thesis.txt"]


def test_damaged_result_is_named(tmp_path: Path) -> None:
    store = Store(tmp_path, QUESTION, {})
    store.put({"dice": 1}, "m", "case", "clean")
    file = tmp_path / "results" / "m" / "case" / "clean.json"
    file.write_text('{"dice"')
    with pytest.raises(ValueError, match=r"clean\.json is damaged .* remove it"):
        store.get("m", "case", "clean")


def test_no_half_written_result(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = Store(tmp_path, QUESTION, {})
    store.put({"dice": 1}, "m", "case", "clean")

    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fdopen", full)
    with pytest.raises(OSError, match="No space left"):
        store.put({"dice": 2}, "m", "case", "clean")
    monkeypatch.undo()
    assert store.get("m", "case", "clean") == {"dice": 1}
    assert [file.name for file in (tmp_path / "results" / "m" / "case").iterdir()] == ["clean.json"]


def test_not_a_number_is_no_result(tmp_path: Path) -> None:
    store = Store(tmp_path, QUESTION, {})
    with pytest.raises(ValueError, match="not JSON compliant"):
        store.put({"dice": float("nan")}, "m", "case", "clean")


def test_noise_comes_back_exactly_and_goes_with_its_case(tmp_path: Path) -> None:
    store = Store(tmp_path, QUESTION, {})
    noise = torch.randn(2, 3, 4, 5) * 1e-4
    store.put_noise(noise, "m", "case", "pgd@1")
    store.put_noise(-noise, "m", "other", "pgd@1")
    assert torch.equal(store.get_noise("m", "case", "pgd@1"), noise)
    store.drop_noise("m", "case")
    assert torch.equal(store.get_noise("m", "other", "pgd@1"), -noise)
    store.drop_noise("m", "other")
    store.drop_noise("m", "never there")
    assert not (tmp_path / "noise").exists()


def test_noise_keeps_every_bit(tmp_path: Path) -> None:
    noise = torch.tensor([0.1, -0.0, 1e-45, 1.1754944e-38, -3.4028235e38, 1 / 3]).reshape(1, 2, 3).transpose(1, 2)
    store = Store(tmp_path, QUESTION, {})
    store.put_noise(noise, "m", "case", "pgd@0.5")
    found = Store(tmp_path, QUESTION, {}).get_noise("m", "case", "pgd@0.5")
    assert found.dtype == torch.float32
    assert torch.equal(found.contiguous().view(torch.int32), noise.contiguous().view(torch.int32))


def test_no_half_written_noise(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = Store(tmp_path, QUESTION, {})
    store.put_noise(torch.ones(3), "m", "case", "pgd@1")

    def full(stream: BinaryIO, _: object) -> None:
        stream.write(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(np, "save", full)
    for measurement in ("pgd@1", "pgd@2"):
        with pytest.raises(OSError, match="No space left"):
            store.put_noise(torch.zeros(3), "m", "case", measurement)
    monkeypatch.undo()
    assert torch.equal(store.get_noise("m", "case", "pgd@1"), torch.ones(3))
    with pytest.raises(FileNotFoundError):
        store.get_noise("m", "case", "pgd@2")
    store.drop_noise("m", "case")
    assert not (tmp_path / "noise").exists()


def test_each_difference_is_named(tmp_path: Path) -> None:
    Store(tmp_path, QUESTION, {})
    for question, named in (
        (QUESTION | {"models": {"m": "def"}}, "with other models;"),
        ({"models": QUESTION["models"]}, "with other settings;"),
        (QUESTION | {"data": "new"}, "with other data;"),
    ):
        with pytest.raises(ValueError, match=named):
            Store(tmp_path, question, {})


def test_damaged_manifest_is_named(tmp_path: Path) -> None:
    Store(tmp_path, QUESTION, {})
    (tmp_path / "manifest.json").write_text('{"question": ')
    with pytest.raises(ValueError, match=r"manifest\.json is damaged"):
        Store(tmp_path, QUESTION, {})


def test_hash_depends_on_every_byte_and_on_the_order(tmp_path: Path) -> None:
    first, second = tmp_path / "a", tmp_path / "b"
    first.write_bytes(b"x" * 3_000_000)
    second.write_bytes(b"y")
    before = sha256([first, second])
    assert before != sha256([second, first])
    first.write_bytes(b"x" * 2_999_999 + b"z")
    assert before != sha256([first, second])


@pytest.mark.parametrize("content", ["", "{", "[]", "{}"])
def test_damaged_manifest_names_the_way_out(tmp_path: Path, content: str) -> None:
    (tmp_path / "manifest.json").write_text(content)
    with pytest.raises(ValueError, match=r"manifest\.json is .*choose another folder with --output"):
        Store(tmp_path, QUESTION, {})
