"""Results are whole or not there, and never mixed with those of another audit."""

from __future__ import annotations

import json
import os
import platform
import shutil
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import BinaryIO

import numpy as np
import pytest
import torch

from nnunet_ima.evidence import lock
from nnunet_ima.evidence import manifest as manifests
from nnunet_ima.evidence import store as module
from nnunet_ima.evidence.schema import SCHEMA
from nnunet_ima.evidence.store import Store, level_key, sha256


@dataclass(frozen=True)
class Dice:
    dice: float
    kinds: tuple[float, ...] = ()


QUESTION = {"settings": {"eps": (1, 2)}, "models": {"m": "abc"}}


def test_results_are_found_again(tmp_path: Path) -> None:
    store = Store(tmp_path / "out", QUESTION, {"torch": "1"})
    assert store.get(Dice, "m", "case", "pgd@1") is None
    store.put(Dice(0.1 + 0.2), "m", "case", "pgd@1")
    again = Store(tmp_path / "out", QUESTION, {"torch": "1"})
    assert again.get(Dice, "m", "case", "pgd@1") == Dice(0.1 + 0.2)


def test_every_machine_that_took_part_is_named_once(tmp_path: Path) -> None:
    for torch_version in ("1", "2", "1"):
        Store(tmp_path, QUESTION, {"torch": torch_version})
    manifest = json.loads((tmp_path / "manifest.json").read_text())
    assert manifest["provenance"] == [{"torch": "1"}, {"torch": "2"}]


def test_another_audit_is_refused_and_loses_nothing(tmp_path: Path) -> None:
    store = Store(tmp_path, QUESTION, {})
    store.put(Dice(1), "m", "case", "clean")
    before = (tmp_path / "manifest.json").read_text()
    with pytest.raises(ValueError, match="an audit with other models, settings"):
        Store(tmp_path, {"settings": {"eps": (1,)}, "models": {"m": "def"}}, {})
    assert (tmp_path / "manifest.json").read_text() == before
    assert store.get(Dice, "m", "case", "clean") == Dice(1)


def test_further_models_join(tmp_path: Path) -> None:
    Store(tmp_path, QUESTION, {}).put(Dice(1), "m", "case", "clean")
    Store(tmp_path, QUESTION | {"models": {"n": "def"}}, {}).put(Dice(2), "n", "case", "clean")
    both = Store(tmp_path, QUESTION | {"models": {**QUESTION["models"], "n": "def"}}, {})
    assert [both.get(Dice, name, "case", "clean") for name in "mn"] == [Dice(1), Dice(2)]
    assert json.loads((tmp_path / "manifest.json").read_text())["question"]["models"].keys() == {"m", "n"}
    with pytest.raises(ValueError, match="an audit with other models;"):
        Store(tmp_path, QUESTION | {"models": {"n": "another"}}, {})


def test_models_that_join_at_the_same_moment_are_both_known(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write, names = manifests.write_atomically, [f"m{number}" for number in range(4)]

    def slowly(file: Path, text: str) -> None:
        time.sleep(0.1)
        write(file, text)

    monkeypatch.setattr(manifests, "write_atomically", slowly)
    with ThreadPoolExecutor(len(names)) as pool:
        stores = list(pool.map(lambda name: Store(tmp_path, QUESTION | {"models": {name: name}}, {}), names))
        list(pool.map(lambda it: it[0].took_part({"device": it[1]}), zip(stores, names, strict=True)))
    manifest = json.loads((tmp_path / "manifest.json").read_text())
    assert manifest["question"]["models"] == {name: name for name in names}
    assert sorted(entry["device"] for entry in manifest["provenance"] if entry) == names


def test_a_process_that_dies_keeps_nobody_waiting(tmp_path: Path) -> None:
    code = "import os, sys; from filelock import FileLock; FileLock(sys.argv[1]).acquire(); os.kill(os.getpid(), 9)"
    Store(tmp_path, QUESTION, {})
    assert subprocess.run([sys.executable, "-c", code, str(tmp_path / lock.LOCK)]).returncode == -9
    Store(tmp_path, QUESTION, {})


def test_who_waits_too_long_is_told_for_whom(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lock, "WAIT", 0.1)
    other = Store(tmp_path, QUESTION, {})
    with other.alone(), other.alone(), pytest.raises(TimeoutError, match=f"writing into {tmp_path} for 0 s"):
        Store(tmp_path, QUESTION, {})


def test_where_files_cannot_be_locked_nobody_waits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def acquire(self: object) -> None:
        raise NotImplementedError

    monkeypatch.setattr(lock.FileLock, "acquire", acquire)
    assert Store(tmp_path, QUESTION, {}).question()["models"] == QUESTION["models"]


def test_foreign_files_are_refused(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("precious")
    with pytest.raises(ValueError, match="holds other files; choose an empty folder with --output"):
        Store(tmp_path, QUESTION, {})
    assert [file.name for file in tmp_path.iterdir()] == ["thesis.txt"]


NO_RESULTS = ("", '{"dice"', "[]", "{}", "3", '{"dice": 1, "kinds": []}', "[" * 99999)
OF_THIS_RELEASE = ("", ', "kinds": []', ', "dice": null, "kinds": []', ', "dice": "0.5", "kinds": []')


@pytest.mark.parametrize("content", [*NO_RESULTS, *(f'{{"schema": {SCHEMA}{rest}}}' for rest in OF_THIS_RELEASE)])
def test_damaged_result_is_named_and_made_again(tmp_path: Path, content: str, capsys) -> None:
    store = Store(tmp_path, QUESTION, {})
    store.put(Dice(1), "m", "case", "clean")
    file = tmp_path / "results" / "m" / "case" / "clean.json"
    file.write_text(content)
    assert store.get(Dice, "m", "case", "clean") is None
    assert capsys.readouterr().err == f"{file} is damaged; it is measured again\n"
    assert store.put(Dice(1), "m", "case", "clean") == store.get(Dice, "m", "case", "clean")
    assert capsys.readouterr().err == ""


def test_a_result_built_upon_others_is_made_again(tmp_path: Path, capsys) -> None:
    store = Store(tmp_path, QUESTION, {})
    store.put(Dice(1), "m", "case", "margin", given=("fell at 5",))
    assert store.get(Dice, "m", "case", "margin", given=("fell at 5",)) == Dice(1)
    assert store.get(Dice, "m", "case", "margin", given=("fell at 3",)) is None
    assert store.get(Dice, "m", "case", "margin") is None
    assert capsys.readouterr().err == ""  # nothing is damaged


def test_results_of_another_release_are_refused_and_kept(tmp_path: Path) -> None:
    store = Store(tmp_path / "out", QUESTION, {})
    store.put(Dice(1), "m", "case", "clean")
    file = tmp_path / "out" / "results" / "m" / "case" / "clean.json"
    content = file.read_text().replace(f'"schema": {SCHEMA}', '"schema": 7')
    file.write_text(content)
    with pytest.raises(OSError, match=r"clean.json was written by a release .* the version 7.*--output"):
        store.get(Dice, "m", "case", "clean")
    assert file.read_text() == content
    manifest = tmp_path / "out" / "manifest.json"
    for change, words in ((7, "by a release whose records have the version 7"), (None, "by an earlier release")):
        stored = json.loads(manifest.read_text()) | {"schema": change}
        manifest.write_text(json.dumps({key: value for key, value in stored.items() if value is not None}))
        with pytest.raises(OSError, match=f"manifest.json was written {words}.*--output"):
            Store(tmp_path / "out", QUESTION, {})


def test_damaged_noise_is_named_and_made_again(tmp_path: Path, capsys) -> None:
    store = Store(tmp_path, QUESTION, {})
    store.put_noise(torch.ones(3), "m", "case", "pgd@1")
    file = tmp_path / "noise" / "m" / "case" / "pgd@1.npy"
    whole = file.read_bytes()
    endless = whole.replace(b"(3,)", b"(9" + b"9" * 18 + b",)")  # the header's length is wrong then, too
    for content in (whole[:-1], whole[:9], b"", b"text", bytes(len(whole)), b"\xff" * len(whole), endless):
        file.write_bytes(content)
        assert store.get_noise("m", "case", "pgd@1") is None
        assert capsys.readouterr().err == f"{file} is damaged; it is measured again\n"


def test_no_half_written_result(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = Store(tmp_path, QUESTION, {})
    store.put(Dice(1), "m", "case", "clean")

    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        store.put(Dice(2), "m", "case", "clean")
    monkeypatch.undo()
    assert store.get(Dice, "m", "case", "clean") == Dice(1)
    assert [file.name for file in (tmp_path / "results" / "m" / "case").iterdir()] == ["clean.json"]


def test_not_a_number_is_no_result(tmp_path: Path) -> None:
    store = Store(tmp_path, QUESTION, {})
    for result in (Dice(float("nan")), Dice(0.5, kinds=(0.5, float("-inf")))):
        with pytest.raises(ValueError, match=r"case clean of the model m is not a finite number \(.* = .*image"):
            store.put(result, "m", "case", "clean")
    assert not (tmp_path / "results").exists()


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
    assert store.get_noise("m", "case", "pgd@2") is None
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


MANIFESTS = [
    *("", "{", "[]", "{}", "3", '{"question": [], "provenance": []}', '{"question": {}, "provenance": {}}'),
    '{"question": {}, "provenance": ["torch"]}',
]


@pytest.mark.parametrize("content", MANIFESTS)
def test_damaged_manifest_names_the_way_out(tmp_path: Path, content: str) -> None:
    (tmp_path / "manifest.json").write_text(content)
    with pytest.raises(ValueError, match=r"manifest\.json is .*choose another folder with --output"):
        Store(tmp_path, QUESTION, {})


@pytest.mark.parametrize(
    ("eps", "key"), [(5.0, "5"), (0.1, "0.1"), (2.5, "2.5"), (1e6, "1e+06"), (1e-7, "1e-07"), (0.0, "0"), (15, "15")]
)
def test_ordinary_levels_have_their_short_name(eps: float, key: str) -> None:
    """As in release 0.1: names of files and seeds of random draws depend on it."""
    assert level_key(eps) == key == f"{eps:g}"


def test_levels_that_differ_have_other_names() -> None:
    levels = [0.1, 0.1000000001, 0.1 + 2e-17, float(np.nextafter(0.1, 1)), 1234567.0, 1234568.0, 0.1 + 0.2, 0.3]
    assert len({level_key(eps) for eps in levels}) == len(set(levels))
    assert all(float(level_key(eps)) == eps for eps in levels)
    assert level_key(1234567.0) == "1234567"


@pytest.mark.parametrize("name", ["..", ".", "", "a/b", "../../x", "a\\b", "a\0b", "a\nb"])
def test_nothing_outside_is_touched(tmp_path: Path, name: str) -> None:
    marker = tmp_path / "marker" / "precious.txt"
    marker.parent.mkdir()
    marker.write_text("precious")
    store = Store(tmp_path / "out", QUESTION, {})
    for place in ((name, "case", "clean"), ("m", name, "clean"), ("m", "case", f"{name}/../x")):
        for use in (partial(store.get, Dice), store.get_noise, lambda *at: store.put(Dice(1), *at)):
            with pytest.raises(ValueError, match="holds the name"):
                use(*place)
    for place in ((name,), ("m", name), ("m", "../../../marker")):
        with pytest.raises(ValueError, match="holds the name"):
            store.drop_noise(*place)
    assert marker.read_text() == "precious"
    names = {entry.name for entry in tmp_path.rglob("*")} - {lock.LOCK}
    assert names == {"manifest.json", "marker", "out", "precious.txt"}


def test_links_out_of_the_folder_are_refused(tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere" / "case"
    elsewhere.mkdir(parents=True)
    store = Store(tmp_path / "out", QUESTION, {})
    for folder in ("noise", "results"):
        (tmp_path / "out" / folder).mkdir()
        (tmp_path / "out" / folder / "m").symlink_to(elsewhere.parent)
    for use in (
        lambda: store.drop_noise("m", "case"),
        lambda: store.put_noise(torch.ones(1), "m", "case", "pgd@1"),
        lambda: store.put(Dice(1), "m", "case", "clean"),
    ):
        with pytest.raises(OSError, match=r"leads out of the audit's folder, to .*elsewhere.*; remove the link"):
            use()
    assert list(elsewhere.iterdir()) == []
    (tmp_path / "link").symlink_to(tmp_path / "out")  # the folder itself may be one
    assert Store(tmp_path / "link", QUESTION, {}).get(Dice, "n", "case", "clean") is None


@pytest.mark.parametrize("link", ["results", "results/m", "results/m/case", "results/m/case/clean.json"])
def test_a_link_is_looked_through_wherever_it_is_and_whenever_it_comes(tmp_path: Path, link: str) -> None:
    store = Store(tmp_path / "out", QUESTION, {})
    store.put(Dice(1), "m", "case", "clean")
    assert store.get(Dice, "m", "case", "clean") == Dice(1)
    (tmp_path / "out" / "inside").mkdir()
    place, moved = tmp_path / "out" / link, tmp_path / "out" / "inside" / "moved"
    place.rename(moved)
    place.symlink_to(moved)  # it stays in the folder
    assert store.get(Dice, "m", "case", "clean") == Dice(1)
    place.unlink()
    place.symlink_to(moved.rename(tmp_path / "stolen"))
    for use in (partial(store.get, Dice), lambda *at: store.put(Dice(2), *at)):
        with pytest.raises(OSError, match=r"leads out of the audit's folder, to .*stolen.*; remove the link"):
            use("m", "case", "clean")
    place.unlink()
    place.symlink_to(tmp_path / "nowhere")  # what is not there yet may come
    with pytest.raises(OSError, match="leads out of the audit's folder"):
        store.get(Dice, "m", "case", "clean")


def test_a_folder_that_is_gone_is_not_made_again(tmp_path: Path) -> None:
    store = Store(tmp_path / "out", QUESTION, {})
    shutil.rmtree(tmp_path / "out")
    for use in (
        lambda: store.put(Dice(1), "m", "case", "clean"),
        lambda: store.put_noise(torch.ones(1), "m", "c", "p@1"),
    ):
        with pytest.raises(FileNotFoundError, match=r"manifest\.json is gone"):
            use()
    assert not (tmp_path / "out").exists()


def test_several_workers_keep_and_drop_noise(tmp_path: Path) -> None:
    """Each removes the folders that it finds empty, while the others are about to write into them."""
    Store(tmp_path, QUESTION, {})
    errors = []

    def work(case: str) -> None:
        store = Store.__new__(Store)
        store.folder = tmp_path
        try:
            for number in range(20):
                store.put_noise(torch.full((2,), float(number)), "m", case, "pgd@1")
                assert torch.equal(store.get_noise("m", case, "pgd@1"), torch.full((2,), float(number)))
                store.drop_noise("m", case)
        except Exception as error:  # of a thread, it would be lost
            errors.append(error)

    workers = [threading.Thread(target=work, args=(f"case {number}",)) for number in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert errors == []
    assert not (tmp_path / "noise").exists()


def test_a_folder_made_a_moment_ago_may_go(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another process removes the empty folder between making it and writing into it."""
    store, original, calls = Store(tmp_path, QUESTION, {}), module.atomic_file, []

    def late(file: Path) -> object:
        calls.append(file)
        if len(calls) == 1:
            store.drop_noise("m", "other")
            shutil.rmtree(tmp_path / "noise")
        return original(file)

    monkeypatch.setattr(module, "atomic_file", late)
    store.put_noise(torch.ones(2), "m", "case", "pgd@1")
    assert torch.equal(store.get_noise("m", "case", "pgd@1"), torch.ones(2))


def test_a_folder_that_goes_while_it_is_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """pathlib's mkdir finds a folder that exists, and then no folder: it calls that a file in the way."""
    store, original, calls = Store(tmp_path, QUESTION, {}), Path.mkdir, []

    def gone(folder: Path, *args: object, **kwargs: object) -> None:
        calls.append(folder)
        if len(calls) == 1:
            raise FileExistsError(folder)
        original(folder, *args, **kwargs)

    monkeypatch.setattr(Path, "mkdir", gone)
    store.put_noise(torch.ones(2), "m", "case", "pgd@1")
    assert torch.equal(store.get_noise("m", "case", "pgd@1"), torch.ones(2))


def test_scratch_of_the_dead_is_removed_and_that_of_the_living_stays(tmp_path: Path) -> None:
    store = Store(tmp_path, QUESTION, {})
    with store.scratch() as own:
        (own / "noisy.nii.gz").write_text("half")
    assert not own.exists()
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    machine = own.name.removeprefix(".stored-").rsplit("-", 2)[0]
    assert machine == "".join(letter if letter.isalnum() else "_" for letter in platform.node())
    dead, living, foreign = f"{machine}-{ended.pid}-x", f"{machine}-{os.getppid()}-x", "elsewhere-1-x"
    old, former = "elsewhere-2-x", "abcd_efg"  # the latter of release 0.1
    for name in (dead, living, foreign, old, former):
        (tmp_path / f".stored-{name}").mkdir()
        (tmp_path / f".stored-{name}" / "noisy.nii.gz").write_text("half")
    for name in (old, former):
        os.utime(tmp_path / f".stored-{name}", (0, 0))
    Store(tmp_path, QUESTION, {})
    assert {folder.name for folder in tmp_path.glob(".stored-*")} == {f".stored-{living}", f".stored-{foreign}"}


CASES = {"cases": {"a": "hash of a", "b": "hash of b"}}


def test_a_repaired_case_without_results_is_taken(tmp_path: Path) -> None:
    store = Store(tmp_path, CASES, {})
    store.put(Dice(1), "m", "a", "clean")
    repaired = {"cases": {"a": "hash of a", "b": "repaired"}}
    Store(tmp_path, repaired, {})
    assert json.loads((tmp_path / "manifest.json").read_text())["question"] == repaired
    for other in ({"a": "other", "b": "repaired"}, {"a": "hash of a"}, repaired["cases"] | {"c": "new"}):
        with pytest.raises(ValueError, match="an audit with other cases"):
            Store(tmp_path, {"cases": other}, {})
    store.put(Dice(1), "m", "b", "clean")
    with pytest.raises(ValueError, match="an audit with other cases"):
        Store(tmp_path, CASES, {})


def test_a_folder_without_results_is_given_back(tmp_path: Path) -> None:
    store = Store(tmp_path, CASES, {})
    (tmp_path / "images" / "m" / "a").mkdir(parents=True)
    store.release()
    assert list(tmp_path.iterdir()) == []
    store = Store(tmp_path, {"cases": {}}, {})
    store.put(Dice(1), "m", "a", "components", "pgd@1")
    store.release()
    assert (tmp_path / "manifest.json").is_file()


def test_a_manifest_that_a_kill_left_half_written_is_no_foreign_file(tmp_path: Path) -> None:
    (tmp_path / ".manifest.json.abcd1234").write_text("{")
    Store(tmp_path, QUESTION, {}).put(Dice(1), "m", "a", "clean")
