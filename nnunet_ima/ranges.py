"""What values a setting may take, declared beside it: `beta: Annotated[float, Range(0, 1, closed=True)] = 0.5`."""

from __future__ import annotations

import math
import sys
from collections.abc import Collection, Mapping
from typing import Any, NamedTuple, Protocol, get_type_hints


class Rule(Protocol):
    """What a value must be; as text, the end of "must be ..."."""

    def __str__(self) -> str: ...

    def holds(self, value: Any) -> bool:
        """Whether a value, of any type, is so."""


class Range(NamedTuple):
    """Numbers above `low` (at least, if closed) and at most `high`."""

    low: float
    high: float = math.inf
    closed: bool = False
    whole: bool = False

    def __str__(self) -> str:
        text = f"{'a whole number' if self.whole else 'a number'} "
        text += f"{'at least' if self.closed else 'greater than'} {self.low:.12g}"
        return text + (f" and at most {self.high:.12g}" if self.high < math.inf else "")

    def holds(self, value: Any) -> bool:
        """Whether a value is such a number."""
        if isinstance(value, bool) or not isinstance(value, int if self.whole else (int, float)):
            return False
        # compared, not converted: a whole number can be too large to be a float
        most = min(self.high, sys.float_info.max)
        return bool(value <= most and (value >= self.low if self.closed else value > self.low))


class Choice(NamedTuple):
    """One of some values, and of their type: 1 is not true."""

    values: Collection[Any]

    def __str__(self) -> str:
        return f"one of {', '.join(str(value).lower() if isinstance(value, bool) else value for value in self.values)}"

    def holds(self, value: Any) -> bool:
        """Whether a value is one of them."""
        return any(type(value) is type(allowed) and value == allowed for allowed in self.values)


class Text(NamedTuple):
    """A text that is not empty."""

    meaning: str

    def __str__(self) -> str:
        return self.meaning

    def holds(self, value: Any) -> bool:
        """Whether a value is a text."""
        return isinstance(value, str) and bool(value)


def check_values(settings: type, values: Mapping[str, Any]) -> None:
    """Check values against the rules beside the fields of a dataclass; None passes where it is the default.

    Raises:
        ValueError: a value breaks its rule; the message names both.
    """
    for key, hint in get_type_hints(settings, include_extras=True).items():
        rules: tuple[Rule, ...] = getattr(hint, "__metadata__", ())
        if key not in values or (values[key] is None and getattr(settings, key, ...) is None):
            continue
        for rule in rules:
            if not rule.holds(values[key]):
                shown = repr(values[key])
                msg = f"{key} must be {rule}, got {shown if len(shown) <= 80 else shown[:77] + '...'}"
                raise ValueError(msg)
