"""Writing files so that nobody ever sees half of one; reading them so that a fault names its file."""

from __future__ import annotations

import csv
import gzip
import io
import json
import os
import tempfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any


def write_atomically(file: Path, text: str) -> None:
    """Write a text file; a reader, or the next start after a power loss, sees the old content or the new one."""
    handle, name = tempfile.mkstemp(prefix=f".{file.name}.", dir=file.parent)
    part = Path(name)
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as stream:
            stream.write(text)
        part.chmod(0o644)  # mkstemp keeps the file to its owner; colleagues share results
        part.replace(file)
    except BaseException:
        part.unlink(missing_ok=True)
        raise


def csv_text(rows: Iterable[Mapping[str, Any]]) -> str:
    """Return rows as CSV with a first line of all names that occur; a name that a row lacks leaves its cell empty."""
    rows = list(rows)
    text = io.StringIO()
    writer = csv.DictWriter(text, list(dict.fromkeys(key for row in rows for key in row)), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


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
        return json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
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
