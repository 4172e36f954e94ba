"""Folders for files that are needed for a moment, in an audit's folder: on its disk, and gone with their process."""

from __future__ import annotations

import os
import platform
import re
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

SCRATCH = ".stored-"
DAY = 86400.0  # seconds


@contextmanager
def scratch_in(folder: Path) -> Iterator[Path]:
    """A folder in another one, named after this process; it goes with the context."""
    owner = f"{SCRATCH}{_machine()}-{os.getpid()}-"
    with tempfile.TemporaryDirectory(dir=folder, prefix=owner, ignore_cleanup_errors=True) as made:
        yield Path(made)


def sweep(folder: Path) -> None:
    """Remove the scratch of processes that are gone."""
    for left in folder.glob(f"{SCRATCH}*"):
        owner = re.fullmatch(rf"{re.escape(SCRATCH)}(.+)-(\d+)-[^-]*", left.name)
        with suppress(OSError):  # another process sweeps, too
            if owner and owner[1] == _machine():
                stale = int(owner[2]) == os.getpid() or not _alive(int(owner[2]))
            else:  # of another machine, or of release 0.1
                stale = time.time() - left.stat().st_mtime > DAY
            if stale:
                shutil.rmtree(left, ignore_errors=True)


def _machine() -> str:
    return re.sub(r"\W", "_", platform.node()) or "unknown"


def _alive(process: int) -> bool:
    if os.name != "posix":
        return True  # there is no harmless way to ask
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
