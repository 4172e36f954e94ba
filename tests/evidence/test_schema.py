"""Records come back as they were, or not at all."""

from __future__ import annotations

import json
from dataclasses import dataclass, fields, replace
from typing import Any

import pytest

from nnunet_ima.evidence.records import NoiseSize, Passes, Trace
from nnunet_ima.evidence.schema import fingerprint, from_json, to_json


@dataclass(frozen=True)
class Inner:
    count: int


@dataclass(frozen=True)
class Outer(Inner):
    name: str
    dice: float | None
    done: bool
    inner: Inner | None
    by_class: dict[str, float | None]
    overlap: dict[str, tuple[int, int]]
    course: tuple[float, ...]


RECORD = Outer(3, "a", 0.25, True, Inner(1), {"core": 0.1, "shell": None}, {"core": (1, 2)}, (1.0, 2.5))


@pytest.mark.parametrize("record", [RECORD, replace(RECORD, dice=None, inner=None, course=(), by_class={})])
def test_a_record_comes_back(record: Outer) -> None:
    assert from_json(Outer, json.loads(json.dumps(to_json(record)))) == record


def test_whole_numbers_are_numbers_and_more_fields_do_no_harm() -> None:
    found = from_json(Outer, {**to_json(RECORD), "dice": 1, "schema": 1})
    assert found == replace(RECORD, dice=1.0)
    assert type(found.dice) is float


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"count": 1.5}, "Outer.count must be of the type int, got 1.5"),
        ({"count": True}, "Outer.count"),
        ({"name": None}, "Outer.name"),
        ({"dice": "0.5"}, "Outer.dice must be of the type float, got '0.5'"),
        ({"dice": True}, "Outer.dice"),
        ({"done": 1}, "Outer.done"),
        ({"inner": {}}, "Outer.inner lacks count"),
        ({"by_class": {"core": "x"}}, r"Outer.by_class\[core\]"),
        ({"by_class": []}, "Outer.by_class"),
        ({"overlap": {"core": [1, 2, 3]}}, r"Outer.overlap\[core\]"),
        ({"course": [1, None]}, r"Outer.course\[1\]"),
        ({"course": [*[0.5] * 99, "x"]}, r"Outer.course\[99\] must be of the type float, got 'x'"),
        ({"course": 1}, "Outer.course must be of the type tuple, got 1"),
        ({"overlap": {"core": [1, 2.0]}}, r"Outer.overlap\[core\]\[1\] must be of the type int, got 2.0"),
        ({"inner": {"count": "x"}}, "Outer.inner.count must be of the type int, got 'x'"),
    ],
)
def test_a_wrong_type_is_named(change: dict[str, Any], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        from_json(Outer, to_json(RECORD) | change)


@dataclass(frozen=True)
class Grown(Outer):
    sure: float | None = None


def test_a_field_with_a_default_may_be_missing() -> None:
    held = Grown(**{field.name: getattr(RECORD, field.name) for field in fields(RECORD)})
    assert from_json(Grown, to_json(RECORD)) == held
    assert from_json(Grown, to_json(replace(held, sure=0.5))) == replace(held, sure=0.5)
    with pytest.raises(ValueError, match="Grown lacks name"):
        from_json(Grown, {key: value for key, value in to_json(held).items() if key != "name"})
    with pytest.raises(ValueError, match=r"Grown.sure must be of the type float, got 'high'"):
        from_json(Grown, to_json(held) | {"sure": "high"})


@pytest.mark.parametrize("content", [None, 3, [], "text", {}])
def test_what_is_no_record_is_refused(content: Any) -> None:
    with pytest.raises(ValueError, match="Outer"):
        from_json(Outer, content)


@pytest.mark.parametrize(
    "record",
    [
        Passes(forward=1, backward=2),
        NoiseSize(norm="L2", size=1.0, l2=1.0, linf=0.1, rms=0.2, raw_rms=None),
        Trace(steps=1, zero=0, not_finite=0, keeps_form=True, loss=(0.5,), quality=()),
    ],
)
def test_records_of_audits_come_back(record: Any) -> None:
    assert from_json(type(record), json.loads(json.dumps(to_json(record)))) == record


def test_fingerprints_differ_where_records_do() -> None:
    assert fingerprint(RECORD) == fingerprint(replace(RECORD))
    assert fingerprint(RECORD) != fingerprint(replace(RECORD, course=(1.0, 2.6)))
