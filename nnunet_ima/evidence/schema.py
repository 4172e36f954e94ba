"""Records as JSON, and back: types are checked on the way in, so that whoever reads a record can rely on its fields."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, fields, is_dataclass
from functools import cache
from types import NoneType, UnionType
from typing import Any, TypeVar, Union, cast, get_args, get_origin, get_type_hints

SCHEMA = (
    2  # to be raised when a field of a stored record changes its name, type or meaning, or a new one has no default
)

R = TypeVar("R")


def to_json(value: Any) -> Any:
    """Return a record, or what its fields may hold, as JSON values."""
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
    found: R = _read(kind, content, kind.__name__)
    return found


def fingerprint(record: Any) -> str:
    """A short text that differs between records that differ."""
    return hashlib.sha256(json.dumps(to_json(record), sort_keys=True).encode()).hexdigest()[:16]


def _read(kind: Any, value: Any, name: str) -> Any:
    origin, inner = get_origin(kind), get_args(kind)
    if is_dataclass(kind) and isinstance(value, dict):
        hints = _hints(cast(type, kind))
        if missing := _needed(cast(type, kind)) - value.keys():
            msg = f"{name} lacks {', '.join(key for key in hints if key in missing)}"
            raise ValueError(msg)
        held = {key: _read(hint, value[key], f"{name}.{key}") for key, hint in hints.items() if key in value}
        return kind(**held)  # type: ignore[operator]
    if origin in (Union, UnionType):
        if value is None and NoneType in inner:
            return None
        (kind,) = (entry for entry in inner if entry is not NoneType)  # no record needs more
        return _read(kind, value, name)
    if origin is tuple and isinstance(value, list) and (inner[-1] is ... or len(inner) == len(value)):
        kinds = inner[:1] * len(value) if inner[-1] is ... else inner
        return tuple(_read(it, entry, f"{name}[{at}]") for at, (it, entry) in enumerate(zip(kinds, value, strict=True)))
    if origin is dict and isinstance(value, dict):
        return {key: _read(inner[1], entry, f"{name}[{key}]") for key, entry in value.items()}
    if kind is float and isinstance(value, int | float) and not isinstance(value, bool):
        return float(value)
    if kind in (int, str, bool) and type(value) is kind:
        return value
    msg = f"{name} must be of the type {getattr(kind, '__name__', kind)}, got {value!r}"
    raise ValueError(msg)


@cache
def _needed(kind: type) -> frozenset[str]:
    """Names of the fields without a default."""
    return frozenset(it.name for it in fields(kind) if it.default is MISSING and it.default_factory is MISSING)


@cache
def _hints(kind: type) -> dict[str, Any]:
    return get_type_hints(kind)
