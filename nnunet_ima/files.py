"""Writing files so that nobody ever sees half of one."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path


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
