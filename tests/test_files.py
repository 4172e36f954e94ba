"""Files are whole, on the disk, and under names that lead nowhere else."""

from __future__ import annotations

import csv
import errno
import gzip
import io
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from full_disk import no_file_beyond

from nnunet_ima.files import atomic_file, check_name, csv_text, naming, write_atomically


def test_content_and_name_reach_the_disk_in_this_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A rename that is on the disk before the content leaves an empty file after a power loss."""
    done: list[tuple[str, int]] = []
    fsync, replace = os.fsync, Path.replace

    def watch_fsync(handle: int) -> None:
        done.append(("fsync", os.fstat(handle).st_ino))
        fsync(handle)

    def watch_replace(part: Path, file: Path) -> Path:
        done.append(("replace", part.stat().st_ino))
        assert part.read_text() == "new"
        return replace(part, file)

    monkeypatch.setattr(os, "fsync", watch_fsync)
    monkeypatch.setattr(Path, "replace", watch_replace)
    write_atomically(tmp_path / "a.json", "new")
    file, folder = (tmp_path / "a.json").stat().st_ino, tmp_path.stat().st_ino
    assert done == [("fsync", file), ("replace", file), ("fsync", folder)]


def test_an_error_on_the_way_changes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "a.bin"
    file.write_bytes(b"old")

    def interrupted() -> None:
        with atomic_file(file) as stream:
            stream.write(b"half")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()

    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        write_atomically(file, "new")
    assert [(entry.name, entry.read_bytes()) for entry in tmp_path.iterdir()] == [("a.bin", b"old")]


WRITERS: dict[str, Callable[[Any], object]] = {
    "text": lambda stream: stream.write(b"x" * 5000),
    "array": lambda stream: np.save(stream, np.ones(5000)),
    "weights": lambda stream: torch.save({"a": torch.ones(5000)}, stream),
    "packed": lambda stream: gzip.GzipFile("", "wb", fileobj=stream).write(os.urandom(50000)),
}


@pytest.mark.parametrize("write", WRITERS.values(), ids=WRITERS)
def test_a_full_disk_is_told_with_the_file(write: Callable[[Any], object], tmp_path: Path) -> None:
    """NumPy and PyTorch would tell of "5000 requested and 240 written" and of an "unexpected pos"."""
    file = tmp_path / "a.bin"
    file.write_bytes(b"old")

    def fill() -> None:
        with no_file_beyond(2000), atomic_file(file) as stream:
            write(stream)

    with pytest.raises(OSError, match="File too large") as caught:
        fill()
    assert (caught.value.errno, caught.value.filename) == (errno.EFBIG, str(file))
    assert [(entry.name, entry.read_bytes()) for entry in tmp_path.iterdir()] == [("a.bin", b"old")]


def test_errors_of_other_files_keep_their_names(tmp_path: Path) -> None:
    def read() -> None:
        with atomic_file(tmp_path / "a.bin"):
            (tmp_path / "source").read_bytes()

    with pytest.raises(FileNotFoundError) as caught:
        read()
    assert caught.value.filename == str(tmp_path / "source")
    with pytest.raises(RuntimeError, match="of its own"), naming(tmp_path / "a.bin"):
        raise RuntimeError("of its own")


def test_a_folder_that_cannot_be_written_is_told_with_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def read_only(part: Path, *_: object) -> None:
        raise OSError(errno.EROFS, "Read-only file system", str(part))

    monkeypatch.setattr(Path, "open", read_only)
    with pytest.raises(OSError, match="Read-only") as caught:
        write_atomically(tmp_path / "a.json", "new")
    assert caught.value.filename == str(tmp_path / "a.json")


@pytest.mark.parametrize(("umask", "mode"), [(0o077, 0o600), (0o022, 0o644), (0o002, 0o664)])
def test_who_may_read_a_file_is_up_to_the_user(umask: int, mode: int, tmp_path: Path) -> None:
    former = os.umask(umask)
    try:
        write_atomically(tmp_path / "a.json", "new")
    finally:
        os.umask(former)
    assert (tmp_path / "a.json").stat().st_mode & 0o777 == mode


@pytest.mark.parametrize("name", ["case_1", "Fall 3 (neu)", "..a", "a..b", "=1", "患者一", "a-b.c"])
def test_names_that_a_folder_may_have(name: str) -> None:
    assert check_name(name, "dataset.json") == name


@pytest.mark.parametrize(
    "name", ["", ".", "..", "/", "a/b", "..\\x", "a\0", "a\nb", "\x1b[2J", "a\x85", "\udc80", 5, None]
)
def test_names_that_lead_elsewhere(name: object) -> None:
    with pytest.raises(ValueError, match=r"dataset\.json holds the name .*must not be empty"):
        check_name(name, "dataset.json")


def test_a_spreadsheet_computes_nothing() -> None:
    rows = [
        {"case": text, "dice": value, "=title": "fine"}
        for text, value in (
            ("=1+1", -0.5),
            ("+x", np.float64(-1.5)),
            ("-x", -3),
            ("@SUM(A1)", None),
            ("\tx", 0.1),
            ("case-1", 0.1),
        )
    ]
    title, *found = csv.reader(io.StringIO(csv_text(rows), newline=""))
    assert title == ["case", "dice", "'=title"]
    assert [row[0] for row in found] == ["'=1+1", "'+x", "'-x", "'@SUM(A1)", "'\tx", "case-1"]
    assert [row[1] for row in found] == ["-0.5", "-1.5", "-3", "", "0.1", "0.1"]
    assert csv_text([{"case": "\rx"}]) == "case\n'\rx\n"
