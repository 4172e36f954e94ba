"""A unit of work is measured once, and again only where it was built upon other results."""

from __future__ import annotations

import pickle
from dataclasses import replace
from pathlib import Path

import pytest

from nnunet_ima.evidence.engine import Engine, Unit
from nnunet_ima.evidence.records import AttackedAgain
from nnunet_ima.evidence.store import Store

UNIT = Unit("m", "case", "components/pgd", 0.1)


def test_a_unit_is_known_by_its_key_and_travels() -> None:
    assert UNIT.key == "m/case/components/pgd@0.1"
    assert (UNIT.name, UNIT.place) == ("pgd@0.1", ("m", "case", "components", "pgd@0.1"))
    assert Unit("m", "case", "clean").key == "m/case/clean"
    assert Unit("m", "case", "pgd", 0.1000000001).key == "m/case/pgd@0.1000000001"
    assert pickle.loads(pickle.dumps(UNIT)) == UNIT
    assert len({UNIT, replace(UNIT), replace(UNIT, seed=1), replace(UNIT, eps=0.2)}) == 3


def test_what_is_stored_is_not_measured_again(tmp_path: Path) -> None:
    done: list[str] = []
    for start in range(2):
        engine = Engine(Store(tmp_path, {}, {}), lambda unit: done.append(unit.key))
        found = engine.result(UNIT, AttackedAgain, lambda _, start=start: AttackedAgain(dice=float(start)))
        assert found == AttackedAgain(dice=0.0)
    assert done == [UNIT.key] * 2


def test_what_was_built_upon_other_results_is_measured_again(tmp_path: Path) -> None:
    engine, measured = Engine(Store(tmp_path, {}, {})), []

    def measure(unit: Unit) -> AttackedAgain:
        measured.append(unit.given)
        return AttackedAgain(dice=0.5)

    for given in (("a",), ("a",), ("b",), ("b",)):
        engine.result(replace(UNIT, given=given), AttackedAgain, measure)
    assert measured == [("a",), ("b",)]


def test_nothing_is_stored_of_a_failed_measurement(tmp_path: Path) -> None:
    engine = Engine(Store(tmp_path, {}, {}))
    with pytest.raises(ValueError, match="not a finite number"):
        engine.result(UNIT, AttackedAgain, lambda _: AttackedAgain(dice=float("nan")))
    assert engine.result(UNIT, AttackedAgain, lambda _: AttackedAgain(dice=0.5)).dice == 0.5
