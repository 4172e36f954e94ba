"""Attacks that race: those that will hardly find the lowest Dice give up, and nothing else changes."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from test_extending import SETTINGS, audit

from nnunet_ima.evidence.records import ComponentResult, Result
from nnunet_ima.evidence.store import Store
from nnunet_ima.inference.cases import Case
from nnunet_ima.inference.pipeline import Pipeline

RACE = replace(SETTINGS, attacks=("race",), margins=False, steps=12, eps=(0.05,))


def components(folder: Path, case: Case) -> dict[str, ComponentResult]:
    store = Store.joined(folder)
    found = {}
    for file in (folder / "results" / "m" / case.name / "components").iterdir():
        result = store.get(ComponentResult, "m", case.name, "components", file.stem)
        assert result is not None
        found[file.stem.split("@")[0]] = result
    return found


def test_a_race_is_standard_with_fewer_steps(pipeline: Pipeline, cases: list[Case], tmp_path: Path) -> None:
    for attack in ("race", "standard"):
        audit(pipeline, cases[:1], tmp_path / attack, replace(RACE, attacks=(attack,)), probes=0)
    race, standard = (components(tmp_path / attack, cases[0]) for attack in ("race", "standard"))
    assert {name.removesuffix("-racing") for name in race} == set(standard)
    assert race["apgd-dice"].trace == standard["apgd-dice"].trace  # the first has nothing to beat
    assert sum(it.trace.steps for it in race.values()) < sum(it.trace.steps for it in standard.values())
    result = Store.joined(tmp_path / "race").get(Result, "m", cases[0].name, "race@0.05")
    assert result is not None
    assert result.dice == min(it.dice for it in race.values()) <= standard["apgd-dice"].dice


def test_a_race_that_was_interrupted_ends_alike(pipeline: Pipeline, cases: list[Case], tmp_path: Path) -> None:
    """Its attacks are stored, and their noise is lost: the lowest one is found again, as it was found."""
    before = audit(pipeline, cases[:1], tmp_path, RACE, probes=0)
    folder = tmp_path / "results" / "m" / cases[0].name
    names = [file.name for file in folder.rglob("*.json")]
    assert {"race@0.05.json", "finished.json"} <= set(names)
    for name in ("race@0.05.json", "finished.json", "shown/race@0.05.json"):
        (folder / name).unlink()
    assert audit(pipeline, cases[:1], tmp_path, RACE, probes=0) == before
