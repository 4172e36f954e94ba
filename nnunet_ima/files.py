"""Writing files so that nobody ever sees half of one; reading them so that a fault names its file."""

from __future__ import annotations

import csv
import gzip
import io
import json
import os
import re
import secrets
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO, TextIO

UNFIT = re.compile(r"[/\\\x00-\x1f\x7f-\x9f\ud800-\udfff]")  # the last are bytes that are no text in UTF-8
FORMULA = ("=", "+", "-", "@", "\t", "\r")


@contextmanager
def atomic_file(file: Path) -> Iterator[BinaryIO]:
    """Open a stream that becomes a file when all is written, on the disk too; after an error nothing has changed.

    A reader, or the next start after a power loss, sees the old content or the new one.

    Raises:
        OSError: it cannot be written; the error names the file, whatever library has met it.
    """
    part = file.with_name(f".{file.name}.{secrets.token_hex(4)}")
    with naming(file):
        try:
            with part.open("x+b") as stream:  # readable, too: else NumPy writes around Python, and hides why it cannot
                yield stream
                stream.flush()
                os.fsync(stream.fileno())  # a rename may reach the disk before what was written
            part.replace(file)
        except BaseException:
            with suppress(OSError):  # what went wrong is told, not that this does, too
                part.unlink()
            raise
    _sync_folder(file.parent)


@contextmanager
def naming(file: Path) -> Iterator[None]:
    """Let errors of the system, such as a full disk, name a file, where they name none or its half-written part.

    PyTorch hides such an error behind one of its own, which has it as its context.

    Raises:
        OSError: the system's error.
    """
    try:
        yield
    except (OSError, RuntimeError) as error:
        fault: BaseException | None = error
        while fault is not None and not (isinstance(fault, OSError) and fault.errno is not None):
            fault = fault.__context__
        if fault is None or (fault.filename and not Path(fault.filename).name.startswith(f".{file.name}.")):
            raise
        raise OSError(fault.errno, fault.strerror, str(file)) from error


def write_atomically(file: Path, text: str) -> None:
    """Write a text file whole or not at all; see `atomic_file`."""
    with atomic_file(file) as stream:
        stream.write(text.encode())


def check_name(name: Any, source: object) -> str:
    """Return a name that becomes that of a file or folder; refuse one that would lead elsewhere or cannot be written.

    Args:
        name: of a case, a model, …
        source: the file, folder or option that holds it.

    Raises:
        ValueError: it is no text, empty, "." or "..", or has a path separator or a control character.
    """
    if isinstance(name, str) and name not in ("", ".", "..") and not UNFIT.search(name):
        return name
    msg = (
        f"{source} holds the name {name!r}; a name becomes that of a folder and must not be empty, '.' or '..', nor "
        "hold a slash, a backslash or a control character"
    )
    raise ValueError(msg)


def csv_text(rows: Iterable[Mapping[str, Any]]) -> str:
    """Return rows as CSV with a first line of all names that occur; a name that a row lacks leaves its cell empty.

    Text that a spreadsheet would take for a formula gets a leading apostrophe; numbers stay as they are.
    """
    rows, text = list(rows), io.StringIO()
    _write_rows(text, lambda: rows)
    return text.getvalue()


def write_csv(file: Path, rows: Callable[[], Iterable[Mapping[str, Any]]]) -> None:
    """Write many rows as `csv_text` does, with one at a time in memory, whole or not at all.

    Args:
        file: the file.
        rows: begins with the first row again each time that it is called.
    """
    with atomic_file(file) as stream:
        text = io.TextIOWrapper(stream, "utf-8", newline="")
        _write_rows(text, rows)
        text.detach()  # the stream is not ours to close


def read_json(file: Path, *, missing: str = "", damaged: str = "") -> Any:
    """Read a JSON file.

    Args:
        file: the file.
        missing: what to do, or what it means, if there is none.
        damaged: what to do if it cannot be read.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it holds no JSON.
    """
    if not file.is_file():
        raise FileNotFoundError(f"{file} is missing" + (f": {missing}" if missing else ""))
    try:
        return json.loads(file.read_text(encoding="utf-8-sig"))  # editors on Windows begin a file with a mark
    except (ValueError, RecursionError) as error:  # the latter: brackets without end
        msg = f"{file} is damaged ({error})" + (f"; {damaged}" if damaged else "")
        raise ValueError(msg) from error


def read_gzip_to_end(file: Path) -> None:
    """Decompress a file and drop what it holds: only at its very end does gzip check that all of it is right.

    Raises:
        OSError, EOFError, zlib.error: it is damaged or cut off.
    """
    with gzip.open(file) as stream:
        while stream.read(1 << 24):
            pass


def _write_rows(text: TextIO, rows: Callable[[], Iterable[Mapping[str, Any]]]) -> None:
    names = dict.fromkeys(_no_formula(key) for row in rows() for key in row)
    writer = csv.DictWriter(text, list(names), lineterminator="\n")
    writer.writeheader()
    for row in rows():
        writer.writerow({_no_formula(key): _no_formula(value) for key, value in row.items()})


def _no_formula(cell: Any) -> Any:
    return f"'{cell}" if isinstance(cell, str) and cell.startswith(FORMULA) else cell


def _sync_folder(folder: Path) -> None:
    """Bring a folder's list of names to the disk, where that is possible."""
    if os.name != "posix":
        return
    with suppress(OSError):  # some network file systems cannot
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
