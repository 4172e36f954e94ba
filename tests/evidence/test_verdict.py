"""Each check passes on sound evidence and fails on the weak kind it is there for."""

from __future__ import annotations

import copy
from typing import Any

import pytest

from nnunet_ima.evidence.verdict import FAILED, NOT_RUN, PASSED, as_rows, is_conclusive, verdict


def sound() -> dict[str, Any]:
    """Evidence on two cases at two noise levels that leaves nothing to be desired."""
    presets = [
        {
            "case": case,
            "eps": eps,
            "dice": dice,
            "noise": {"norm": "L2", "l2": 10 * eps},
            "units": {"l2": 10 * eps},
        }
        for case in ("a", "b")
        for eps, dice in ((1.0, 0.7), (2.0, 0.3))
    ]
    course = [1 - 2 ** (-step / 10) for step in range(100)]
    trace = {"steps": 100, "zero": 0, "not_finite": 0, "keeps_form": True, "loss": course}
    probe = {
        "eps": 2.0,
        "dice": 0.3,
        "dice_twice_the_steps": 0.29,
        "dice_black_box": 0.6,
        "queries": 300,
        "dice_other_scales": 0.29,
        "dice_huge": 0.0,
        "eps_huge": 40.0,
        "repeat_difference": 0.0,
        "dice_full_precision": None,
    }
    return {
        "presets": presets,
        "components": [{"dice": entry["dice"], "trace": dict(trace)} for entry in presets],
        "randoms": [(entry, {"kinds": {"uniform": 0.84, "gaussian": 0.85}}) for entry in presets],
        "probes": [dict(probe), dict(probe)],
    }


def results(evidence: dict[str, Any]) -> dict[str, str]:
    return {check.check: check.result for check in verdict(**evidence)}


def test_sound_evidence_passes_every_check() -> None:
    checks = verdict(**sound())
    assert [check.result for check in checks] == [PASSED] * 10
    assert is_conclusive(checks)
    assert all(row["conclusive"] and row["model"] == "m" and row["figure"] for row in as_rows("m", checks))


def spoil_zero_gradients(evidence: dict[str, Any]) -> None:
    evidence["components"][0]["trace"]["zero"] = 21


def spoil_broken_gradient(evidence: dict[str, Any]) -> None:
    evidence["components"][0]["trace"]["not_finite"] = 1


def spoil_rising_loss(evidence: dict[str, Any]) -> None:
    for entry in evidence["components"]:
        entry["trace"]["loss"] = list(range(100))


def spoil_more_steps(evidence: dict[str, Any]) -> None:
    for probe in evidence["probes"]:
        probe["dice_twice_the_steps"] = 0.2


def spoil_huge_noise(evidence: dict[str, Any]) -> None:
    for probe in evidence["probes"]:
        probe["dice_huge"] = 0.4


def spoil_random_noise(evidence: dict[str, Any]) -> None:
    evidence["randoms"][3][1]["kinds"]["gaussian"] = 0.2


def spoil_scale(evidence: dict[str, Any]) -> None:
    for probe in evidence["probes"]:
        probe["dice_other_scales"] = 0.2


def spoil_black_box(evidence: dict[str, Any]) -> None:
    evidence["probes"][1]["dice_black_box"] = 0.1


def spoil_ranks(evidence: dict[str, Any]) -> None:
    for entry in evidence["presets"]:
        entry["dice"] = 0.0


def spoil_repetition(evidence: dict[str, Any]) -> None:
    evidence["probes"][0]["repeat_difference"] = 0.5


def spoil_bound(evidence: dict[str, Any]) -> None:
    evidence["presets"][2]["noise"]["l2"] *= 1.001


@pytest.mark.parametrize(
    ("spoil", "check"),
    [
        (spoil_zero_gradients, "gradients are finite and do not vanish"),
        (spoil_broken_gradient, "gradients are finite and do not vanish"),
        (spoil_rising_loss, "the loss has stopped rising at the last step"),
        (spoil_more_steps, "twice the steps find no much lower Dice"),
        (spoil_huge_noise, "very large noise breaks the model"),
        (spoil_random_noise, "no random noise beats an attack"),
        (spoil_scale, "no other scale of the logits finds much lower Dice"),
        (spoil_black_box, "no black-box attack beats the gradient"),
        (spoil_ranks, "the noise levels leave something to rank"),
        (spoil_repetition, "the model is deterministic"),
        (spoil_bound, "the noise stays inside its bound"),
    ],
)
def test_weak_evidence_fails_its_check_and_makes_the_audit_inconclusive(spoil: Any, check: str) -> None:
    evidence = copy.deepcopy(sound())
    spoil(evidence)
    found = results(evidence)
    assert found[check] == FAILED
    assert not is_conclusive(verdict(**evidence))
    if spoil is not spoil_ranks:  # at Dice 0 random noise does worse, which is no fault of its own
        assert sorted(found.values()) == [FAILED] + [PASSED] * 9


def test_what_was_not_looked_at_is_called_not_run_and_proves_nothing() -> None:
    evidence = sound() | {"probes": []}
    found = results(evidence)
    assert sum(result == NOT_RUN for result in found.values()) == 5
    assert FAILED not in found.values()
    assert not is_conclusive(verdict(**evidence))


def test_nothing_at_all_is_no_evidence() -> None:
    found = results({"presets": [], "components": [], "randoms": [], "probes": []})
    assert set(found.values()) == {NOT_RUN}


@pytest.mark.parametrize(("dice", "result"), [(0.31, PASSED), (0.28, PASSED), (0.2, FAILED)])
def test_mixed_precision_is_judged_where_it_is_used(dice: float, result: str) -> None:
    evidence = sound()
    for probe in evidence["probes"]:
        probe["dice_full_precision"] = dice
    assert results(evidence)["mixed precision does not weaken the attack"] == result


@pytest.mark.parametrize(
    "course",
    [
        [2.0 - 0.01 * step for step in range(60)] + [1.0] * 40,  # a larger ball first: never above its beginning
        [1.0] * 100,
        [float(step) for step in range(50)] + [50.0] * 50,
    ],
)
def test_a_loss_that_has_settled_passes_however_it_came_there(course: list[float]) -> None:
    evidence = sound()
    for entry in evidence["components"]:
        entry["trace"]["loss"] = course
    assert results(evidence)["the loss has stopped rising at the last step"] == PASSED


def test_short_courses_and_changing_losses_are_not_judged() -> None:
    evidence = sound()
    evidence["components"][0]["trace"]["loss"] = list(range(19))
    for entry in evidence["components"][1:]:
        entry["trace"] |= {"keeps_form": False, "loss": list(range(100))}
    assert results(evidence)["the loss has stopped rising at the last step"] == NOT_RUN


def test_in_linf_the_bound_is_that_of_linf() -> None:
    evidence = sound()
    for entry in evidence["presets"]:
        entry |= {"noise": {"norm": "Linf", "linf": 0.1, "l2": 50.0}, "units": {"l2": None, "linf": 0.1}}
    assert results(evidence)["the noise stays inside its bound"] == PASSED
    evidence["presets"][0]["noise"]["linf"] = 0.11
    assert results(evidence)["the noise stays inside its bound"] == FAILED


def test_an_attack_that_has_reached_0_may_still_have_been_rising() -> None:
    evidence = sound()
    evidence["components"][0] |= {"dice": 0.0}
    evidence["components"][0]["trace"]["loss"] = list(range(100))
    assert is_conclusive(verdict(**evidence))
