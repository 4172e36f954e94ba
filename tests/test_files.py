"""Files are whole, on the disk, and under names that lead nowhere else."""

from __future__ import annotations

import csv
import errno
import io
import os
from pathlib import Path

import numpy as np
import pytest

from nnunet_ima.files import atomic_file, check_name, csv_text, write_atomically


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
