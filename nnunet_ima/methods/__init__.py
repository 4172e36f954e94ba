"""Ways to train, one file each, behind one small interface (`base.Method`): pure PyTorch, for every task."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import MISSING, fields
from importlib import import_module
from typing import Any

from nnunet_ima._methods import ALIASES, METHODS
from nnunet_ima.methods.base import Method, Run
from nnunet_ima.ranges import check_values

__all__ = ["METHODS", "OF_ONE_LEVEL", "Method", "Run", "make_method", "method_class", "options", "parse_method"]

OF_ONE_LEVEL = ("adv", "trades", "fat", "gairat", "te")
"""Methods that train at one noise level; others search margins up to a largest one."""


def method_class(name: str) -> type[Method]:
    """Return the class of a method of `METHODS`, or of one of its aliases."""
    place, _ = METHODS[ALIASES.get(name, name)]
    module, _, kind = place.partition(":")
    found: type[Method] = getattr(import_module(module), kind)
    return found


def parse_method(text: str) -> tuple[str, float | None]:
    """Split "adv10" into the method's name and its noise level; None where the text has no number.

    Raises:
        ValueError: there is no such method, or one without noise has a number.
    """
    found = re.fullmatch(r"([a-z]+)([0-9]+(?:\.[0-9]+)?)?", text)
    name, level = (found[1], found[2]) if found else (text, None)
    if name not in METHODS and name not in ALIASES:
        msg = f"unknown method {text!r}; known are {', '.join(METHODS)}, with a noise level if wanted: adv10"
        raise ValueError(msg)
    if level is not None and "eps" not in options(name):
        msg = f"the method {name} uses no noise, got {text!r}"
        raise ValueError(msg)
    return name, None if level is None else float(level)


def options(name: str) -> dict[str, Any]:
    """Return the settings of a method with their defaults; None for those that have to be given."""
    return {
        field.name: None if field.default is MISSING else field.default
        for field in fields(method_class(name))
        if field.init and field.name != "run"
    }


def make_method(name: str, run: Run, given: Mapping[str, Any]) -> Method:
    """Build a method.

    Raises:
        ValueError: a setting is unknown or missing, or cannot be used.
    """
    known = options(name)
    if unknown := sorted(set(given) - set(known)):
        msg = f"the method {name} has no setting {', '.join(unknown)}; it has {', '.join(known) or 'none'}"
        raise ValueError(msg)
    if "eps" in known and given.get("eps") is None:
        msg = f"the method {name} needs a noise level, for example {name}10"
        raise ValueError(msg)
    kind = method_class(name)
    check_values(kind, given)
    return kind(run=run, **given)
