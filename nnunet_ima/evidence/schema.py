"""Records as JSON, and back: types are checked on the way in, so that whoever reads a record can rely on its fields."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import MISSING, fields, is_dataclass
from functools import cache
from itertools import repeat
from types import NoneType, UnionType
from typing import Any, TypeVar, Union, cast, get_args, get_origin, get_type_hints

SCHEMA = (
    2  # to be raised when a field of a stored record changes its name, type or meaning, or a new one has no default
)

PLAIN = frozenset({float, int, str, bool})

R = TypeVar("R")
Reader = Callable[[Any], Any]
"""Takes a JSON value, and returns the value of a field or raises `_Unfit`."""


def to_json(value: Any) -> Any:
    """Return a record, or what its fields may hold, as JSON values."""
    if value is None or type(value) in PLAIN:  # most values are, and asking for more takes longer
        return value
    if is_dataclass(value):
        return {field.name: to_json(getattr(value, field.name)) for field in fields(value)}
    if isinstance(value, Mapping):
        return {key: to_json(entry) for key, entry in value.items()}
    return [to_json(entry) for entry in value] if isinstance(value, Sequence) and not isinstance(value, str) else value


def from_json(kind: type[R], content: Any) -> R:
    """Return a record of a kind from JSON values; fields that it does not know are left out.

    Fields that have a default may be missing: those of records that an earlier release has kept.

    Args:
        kind: a dataclass of numbers, texts, truth values, None, and of dictionaries, tuples and dataclasses of them.
        content: what `to_json` made.

    Raises:
        ValueError: a field without a default is missing, or one is of another type.
    """
    try:
        found: R = _reader(cast(Any, kind))(content)
    except _Unfit as unfit:
        msg = f"{kind.__name__}{unfit.place} {unfit.says}"
        raise ValueError(msg) from None
    return found


def fingerprint(record: Any) -> str:
    """A short text that differs between records that differ."""
    return hashlib.sha256(json.dumps(to_json(record), sort_keys=True).encode()).hexdigest()[:16]


class _Unfit(Exception):  # noqa: N818  # who asked for a record never sees it
    """What is wrong with a value, and where: those that hold it add their part of the place."""

    def __init__(self, says: str) -> None:
        self.place, self.says = "", says

    def inside(self, place: str) -> _Unfit:
        self.place = place + self.place
        return self


@cache
def _reader(kind: Any) -> Reader:
    """What reads values of a kind: its type is looked at once, however many records an audit has."""
    origin, inner = get_origin(kind), get_args(kind)
    if is_dataclass(kind):
        return _of_record(cast(type, kind))
    if origin in (Union, UnionType):
        (held,) = (entry for entry in inner if entry is not NoneType)  # no record needs more
        reader = _reader(held)
        return lambda value: None if value is None else reader(value)
    if origin is tuple:
        return _of_row(kind, inner[0]) if inner[-1] is ... else _of_tuple(kind, [_reader(it) for it in inner])
    if origin is dict:
        return _of_dictionary(kind, _reader(inner[1]))
    return _of_plain(kind)


def _of_record(kind: type) -> Reader:
    readers = {key: _reader(hint) for key, hint in get_type_hints(kind).items()}
    needed = {it.name for it in fields(kind) if it.default is MISSING and it.default_factory is MISSING}

    def read(value: Any) -> Any:
        if not isinstance(value, dict):
            raise _wrong_type(kind, value)
        if missing := needed - value.keys():
            raise _Unfit(f"lacks {', '.join(key for key in readers if key in missing)}")
        held = {}
        try:
            for key, reader in readers.items():
                if key in value:
                    held[key] = reader(value[key])
        except _Unfit as unfit:
            raise unfit.inside(f".{key}") from None
        return kind(**held)

    return read


def _of_row(kind: Any, held: Any) -> Reader:
    """Of a tuple of any length."""
    reader, plain = _reader(held), {held} & PLAIN

    def read(value: Any) -> Any:
        if not isinstance(value, list):
            raise _wrong_type(kind, value)
        if plain.issuperset(map(type, value)):  # such as the course of an attack: many numbers, seen at a glance
            return tuple(value)
        return _of_each(zip(repeat(reader), value, strict=False))

    return read


def _of_tuple(kind: Any, readers: Sequence[Reader]) -> Reader:
    def read(value: Any) -> Any:
        if not isinstance(value, list) or len(value) != len(readers):
            raise _wrong_type(kind, value)
        return _of_each(zip(readers, value, strict=True))

    return read


def _of_each(entries: Iterable[tuple[Reader, Any]]) -> tuple[Any, ...]:
    held: list[Any] = []
    try:
        for reader, entry in entries:
            held.append(reader(entry))
    except _Unfit as unfit:
        raise unfit.inside(f"[{len(held)}]") from None
    return tuple(held)


def _of_dictionary(kind: Any, reader: Reader) -> Reader:
    def read(value: Any) -> Any:
        if not isinstance(value, dict):
            raise _wrong_type(kind, value)
        held = {}
        try:
            for key, entry in value.items():
                held[key] = reader(entry)
        except _Unfit as unfit:
            raise unfit.inside(f"[{key}]") from None
        return held

    return read


def _of_plain(kind: Any) -> Reader:
    """Of a number, text or truth value."""
    known = kind in PLAIN

    def read(value: Any) -> Any:
        if known and type(value) is kind:
            return value
        if kind is float and type(value) is int:
            return float(value)
        raise _wrong_type(kind, value)

    return read


def _wrong_type(kind: Any, value: Any) -> _Unfit:
    return _Unfit(f"must be of the type {getattr(kind, '__name__', kind)}, got {value!r}")
