"""The gate lets nothing through that falls short, whichever model or attack it is."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from nnunet_ima.evidence.findings import Findings
from nnunet_ima.evidence.gate import Requirement, parse_requirements, unmet
from nnunet_ima.evidence.records import Failure, Judgement


def record(model: str, case: str, attack: str, eps: float, dice: float) -> Any:
    """What the gate reads of a result."""
    return SimpleNamespace(model=model, case=case, attack=attack, eps=eps, dice=dice)


def judgement(conclusive: bool) -> Judgement:
    return Judgement(model="m", check="some", result="passed", figure="none", conclusive=conclusive)


def findings(**dice: dict[float, list[float]]) -> Findings:
    """Findings of attacks on one model: attack to ε to Dice of each case."""
    records = [
        record("m", f"case {number}", attack, eps, value)
        for attack, levels in dice.items()
        for eps, values in levels.items()
        for number, value in enumerate(values)
    ]
    return Findings(records=records, verdicts=[judgement(True)])


@pytest.mark.parametrize(("text", "dice", "eps"), [("0.8@5", 0.8, 5), ("1@0", 1, 0), ("0.75@0.1", 0.75, 0.1)])
def test_a_requirement_is_read(text: str, dice: float, eps: float) -> None:
    assert parse_requirements([text], (0.1, 5)) == [Requirement(dice, eps)]


@pytest.mark.parametrize("text", ["0.8", "@5", "0.8@", "80@5", "-1@5", "nan@5", "0.8@inf", "0.8@5@1"])
def test_nonsense_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="--require is written Dice@ε"):
        parse_requirements([text], (5,))


def test_a_level_that_is_not_measured_is_refused() -> None:
    with pytest.raises(ValueError, match=r"7 is not among the noise levels \(2, 5\); add it to --eps"):
        parse_requirements(["0.5@7"], (2, 5))


def test_the_mean_of_the_worst_attack_counts() -> None:
    found = findings(pgd={5: [0.9, 0.7]}, quick={5: [0.9, 0.5]}, clean={0: [0.9, 0.9]})
    assert unmet([Requirement(0.7, 5), Requirement(0.9, 0)], found) == []
    assert unmet([Requirement(0.75, 5)], found) == ["m has Dice 0.700 at ε = 5, below 0.75"]
    assert len(unmet([Requirement(0.75, 5), Requirement(0.95, 0)], found)) == 2


def test_each_cases_worst_attack_counts_as_in_the_report() -> None:
    found = findings(pgd={5: [0.9, 0.7]}, square={5: [0.7, 0.9]})
    assert unmet([Requirement(0.75, 5)], found) == ["m has Dice 0.700 at ε = 5, below 0.75"]
    assert unmet([Requirement(0.7, 5)], found) == []


def test_a_requirement_without_results_is_not_met() -> None:
    found = findings(pgd={0.1: [0.9]})
    assert unmet([Requirement(0.5, 0.1000000001)], found) == ["m has no result at ε = 0.1000000001"]


def test_weak_evidence_meets_nothing() -> None:
    found = findings(pgd={5: [0.9]})
    found.verdicts.append(judgement(False))
    assert unmet([Requirement(0.1, 5)], found) == ["the audit is not conclusive"]
    assert unmet([], found) == []


def test_a_model_without_a_result_meets_nothing() -> None:
    """Nothing measured is no evidence, for one model of two as for all."""
    found = findings(pgd={5: [0.9]}, clean={0: [0.9]})
    found.records.append(record("other", "case 0", "clean", 0, 0.9))
    assert unmet([Requirement(0.5, 5)], found) == ["other has no result at ε = 5"]
    assert unmet([Requirement(0.5, 5.0000001)], found) == [
        f"{model} has no result at ε = 5.0000001" for model in ("m", "other")
    ]
    nothing = Findings(failed=[Failure(model="m", case="a", error="broken")])
    assert "m has no result at ε = 5" in unmet([Requirement(0.5, 5)], nothing)
    assert unmet([Requirement(0.0, 5)], Findings())
