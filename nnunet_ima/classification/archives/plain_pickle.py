"""Pickles of plain values and arrays of bytes, read without running what they name."""

from __future__ import annotations

import io
import math
import pickle
import pickletools
import reprlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from nnunet_ima.classification.archives.base import Array, read_whole

_OPCODES = frozenset(
    "PROTO FRAME STOP MARK POP POP_MARK DUP NONE NEWTRUE NEWFALSE INT BININT BININT1 BININT2 LONG1 "
    "STRING BINSTRING SHORT_BINSTRING UNICODE BINUNICODE SHORT_BINUNICODE BINBYTES SHORT_BINBYTES "
    "EMPTY_DICT DICT SETITEM SETITEMS EMPTY_LIST LIST APPEND APPENDS EMPTY_TUPLE TUPLE TUPLE1 TUPLE2 TUPLE3 "
    "PUT BINPUT LONG_BINPUT GET BINGET LONG_BINGET MEMOIZE GLOBAL STACK_GLOBAL REDUCE BUILD".split()
)
"""What plain values take. None makes more than the file has bytes, and none makes an object but through a name."""

_PUTS = ("PUT", "BINPUT", "LONG_BINPUT")
_BYTE = ("u1", "|u1", b"u1", b"|u1")


def load_plain(file: Path) -> Any:
    """Read a pickle of numbers, texts, lists, tuples, dictionaries and arrays of unsigned bytes.

    The few names of NumPy that an array takes are not NumPy's here but stand-ins which keep shape and bytes, so that
    nothing of a library runs, either. Texts of Python 2 become bytes.

    Raises:
        ValueError: it is damaged, or names anything else.
    """
    raw = read_whole(file)
    _check(file, raw)
    try:
        return _plain(_Unpickler(file, raw).load())
    except _ForeignError:
        raise
    except Exception as error:  # a damaged pickle can raise anything
        raise ValueError(f"{file} is damaged, or no pickle of plain values ({error}); copy it again") from error


class _ForeignError(ValueError):
    """A pickle that would make or run something."""

    def __init__(self, file: Path, named: str) -> None:
        msg = f"{file} would run {named} when it is loaded, which no pickle of CIFAR-10 does; nothing was run"
        super().__init__(f"{msg}. Get the file anew from a source that you trust")


def _check(file: Path, raw: bytes) -> None:
    """Look at all instructions before any is carried out."""
    last = ""
    try:
        for opcode, argument, place in pickletools.genops(io.BytesIO(raw)):
            last = opcode.name
            if opcode.name == "GLOBAL" and argument not in _names():
                raise _ForeignError(file, reprlib.repr(str(argument).replace(" ", ".")))
            if opcode.name not in _OPCODES:
                raise _ForeignError(file, f"the instruction {opcode.name} at byte {place}")
            # the list of what was put aside grows to that number
            if opcode.name in _PUTS and not 0 <= argument <= len(raw):  # type: ignore[operator]
                raise ValueError(f"it puts something at place {argument}")
    except _ForeignError:
        raise
    except Exception as error:
        raise ValueError(f"{file} is damaged, or no pickle ({error}); copy it again") from error
    if last != "STOP":
        raise ValueError(f"{file} is damaged, or no pickle; copy it again")


class _Bytes:
    """An array as its pickle describes it."""

    def __init__(self) -> None:
        self.found: Array | None = None

    def __setstate__(self, state: Any) -> None:
        _, shape, kind, by_columns, content = state
        if not isinstance(kind, _Kind) or kind.name not in _BYTE:
            raise ValueError("an array holds other numbers than unsigned bytes")
        if not all(type(size) is int and size >= 0 for size in shape) or math.prod(shape) != len(content):
            raise ValueError(f"an array of shape {reprlib.repr(shape)} has {len(content)} bytes")
        self.found = np.frombuffer(content, np.uint8).reshape(shape, order="F" if by_columns else "C")


class _Kind:
    """A type of numbers by its name; what else its pickle says is of no use for bytes."""

    def __init__(self, name: Any) -> None:
        self.name = name

    def __setstate__(self, state: Any) -> None:
        pass


def _encode(text: str, encoding: str) -> bytes:
    """How Python 3 spells bytes in old protocols."""
    if encoding not in ("latin1", b"latin1"):
        raise ValueError(f"bytes are spelled in {reprlib.repr(encoding)}")
    return text.encode("latin1")


def _names() -> dict[str, Callable[..., Any]]:
    """Stand-ins by "module name"; new ones each time, since a pickle can change what it holds."""
    arrays = {f"numpy.{core}.multiarray _reconstruct": lambda *_: _Bytes() for core in ("core", "_core")}
    return {
        **arrays,
        "numpy ndarray": lambda *_: _Bytes(),
        "numpy dtype": lambda name, *_: _Kind(name),
        "_codecs encode": lambda text, encoding: _encode(text, encoding),
    }


class _Unpickler(pickle.Unpickler):
    def __init__(self, file: Path, raw: bytes) -> None:
        super().__init__(io.BytesIO(raw), encoding="bytes")
        self.file, self.names = file, _names()

    def find_class(self, module: str, name: str) -> Any:
        """Return the stand-in of a name."""
        if (found := self.names.get(f"{module} {name}")) is None:
            raise _ForeignError(self.file, reprlib.repr(f"{module}.{name}"))
        return found


def _plain(value: Any) -> Any:
    """Put the arrays in the places of their stand-ins, in a dictionary and no deeper."""
    if not isinstance(value, dict):
        return value
    return {key: entry.found if isinstance(entry, _Bytes) else entry for key, entry in value.items()}
