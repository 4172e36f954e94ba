"""One process after the other in a folder."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

LOCK = ".manifest.json.lock"
WAIT = 600.0  # seconds for another process that writes the manifest or the report


class FolderLock:
    """The right to write what a folder has once.

    The system gives the lock of a process that dies to the next one, over a network where its file system can lock
    files (NFS 4, SMB). Where one cannot, nobody waits: start two commands on one folder one after the other there.
    """

    def __init__(self, folder: Path) -> None:
        self._folder, self._lock = folder, FileLock(folder / LOCK, timeout=WAIT)

    @contextmanager
    def held(self) -> Iterator[None]:
        """Keep other processes out; they wait.

        Raises:
            TimeoutError: another process has not come to an end.
        """
        try:
            self._lock.acquire()
        except Timeout:
            msg = f"another process has been writing into {self._folder} for {WAIT:.0f} s; wait for it, or stop it"
            raise TimeoutError(msg) from None
        except NotImplementedError:
            yield
            return
        try:
            yield
        finally:
            self._lock.release()
