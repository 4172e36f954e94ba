"""Ranges hold numbers of the right kind and no others, whatever they are given."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import pytest

from nnunet_ima.ranges import Choice, Range, Text, check_values


@dataclass
class Example:
    """Some settings."""

    share: Annotated[float, Range(0, 1, closed=True)]
    steps: Annotated[int | None, Range(0, whole=True)] = None
    kind: Annotated[str, Choice(("a", "b"))] = "a"
    free: int = 0


@pytest.mark.parametrize("value", [True, "1", None, [1], {}, float("nan"), float("inf"), -0.1, 1.1, 10**400])
def test_a_range_holds_nothing_else(value: object) -> None:
    assert not Range(0, 1, closed=True).holds(value)


def test_ends_and_whole_numbers() -> None:
    assert Range(0, 1, closed=True).holds(0)
    assert not Range(0, 1).holds(0)
    assert Range(0, 1).holds(1)
    assert Range(0, whole=True).holds(10**300)
    assert not Range(0, whole=True).holds(1.0)
    assert not Range(0).holds(10**400)  # could not become a float
    assert Choice((True, False)).holds(False)
    assert not Choice((True, False)).holds(0)
    assert not Text("a name").holds("")


def test_ranges_are_read_from_beside_the_fields() -> None:
    check_values(Example, {"share": 0.5, "steps": None, "kind": "b", "free": "anything"})
    with pytest.raises(ValueError, match=r"^share must be a number at least 0 and at most 1, got None$"):
        check_values(Example, {"share": None})
    with pytest.raises(ValueError, match=r"^steps must be a whole number greater than 0, got 0$"):
        check_values(Example, {"share": 0, "steps": 0})
    with pytest.raises(ValueError, match=r"^kind must be one of a, b, got \['x+\.\.\.$"):
        check_values(Example, {"kind": ["x" * 200]})
