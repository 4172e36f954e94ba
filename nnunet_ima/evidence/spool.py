"""Records on disk, one at a time in memory: those of ten thousand cases need no more of it than those of ten."""

from __future__ import annotations

import pickle
import tempfile
from array import array
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Generic, TypeVar, overload

from nnunet_ima.files import naming

R = TypeVar("R")
AT_ONCE = 64  # records that are read together when all are looked at


class Spool(Sequence[R], Generic[R]):
    """A list that only grows, whose entries lie in a file without a name; it is gone with this object, or the process.

    Its entries are pickles that this process has written itself, in a file that no other one can open.
    """

    def __init__(self, folder: Path | None = None, entries: Iterable[R] = ()) -> None:
        """Begin with some entries.

        Args:
            folder: on the disk that is to hold the file; None: that of temporary files, which may be memory.
            entries: the first ones.
        """
        self._folder = Path(folder or tempfile.gettempdir())
        self._file = tempfile.TemporaryFile(dir=self._folder)  # it lives as long as this object
        self._begins = array("q", [0])
        self.extend(entries)

    def append(self, entry: R) -> None:
        """Add an entry."""
        self._keep(pickle.dumps(entry, pickle.HIGHEST_PROTOCOL))

    def extend(self, entries: Iterable[R]) -> None:
        """Add some entries; those of another spool as they lie there."""
        if isinstance(entries, Spool):
            for first, end in entries._parts():
                for packed in entries._packed(first, end):
                    self._keep(packed)
        else:
            for entry in entries:
                self.append(entry)

    def __len__(self) -> int:
        """Number of entries."""
        return len(self._begins) - 1

    @overload
    def __getitem__(self, place: int) -> R: ...
    @overload
    def __getitem__(self, place: slice) -> list[R]: ...
    def __getitem__(self, place: int | slice) -> R | list[R]:
        """Read an entry, or some."""
        numbers = range(len(self))[place]
        if isinstance(numbers, range):
            return [entry for number in numbers for entry in self._read(number, number + 1)]
        (entry,) = self._read(numbers, numbers + 1)
        return entry

    def __iter__(self) -> Iterator[R]:
        """Read one entry after the other, of those that are there now."""
        for first, end in self._parts():
            yield from self._read(first, end)

    def __eq__(self, other: object) -> bool:
        """Whether another sequence has equal entries."""
        if not isinstance(other, Sequence):
            return NotImplemented
        return len(self) == len(other) and all(mine == its for mine, its in zip(self, other, strict=True))

    __hash__ = None  # type: ignore[assignment]

    def _parts(self) -> Iterator[tuple[int, int]]:
        end = len(self)
        return ((first, min(first + AT_ONCE, end)) for first in range(0, end, AT_ONCE))

    def _keep(self, packed: bytes | memoryview) -> None:
        with naming(self._folder):
            self._file.seek(self._begins[-1])
            self._file.write(packed)
        self._begins.append(self._begins[-1] + len(packed))

    def _read(self, first: int, end: int) -> list[R]:
        entries: list[Any] = [pickle.loads(packed) for packed in self._packed(first, end)]
        return entries

    def _packed(self, first: int, end: int) -> list[memoryview]:
        begin = self._begins[first]
        with naming(self._folder):  # what was written last may lie in memory still
            self._file.seek(begin)
            packed = memoryview(self._file.read(self._begins[end] - begin))
        return [packed[self._begins[at] - begin : self._begins[at + 1] - begin] for at in range(first, end)]
