"""Is the evidence sound? Checks that tell a robust model from a weak attack (after Carlini et al. 2019, 1902.06705).

A robust-looking number proves nothing by itself: vanishing gradients, too few steps or a faulty harness give the same.
Each check here can fail. One that does makes the audit "not conclusive", and so does one that was not run: what was not
looked at proves nothing.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from statistics import fmean
from typing import Any

PASSED, FAILED, NOT_RUN = "passed", "failed", "not run"

# Lowest share of vanished gradients, rise of the loss in the last tenth of the steps, gain of Dice or accuracy by more
# or other attacks, and Dice or accuracy under noise that nothing can stand, at which a check fails.
VANISHED, STILL_RISING, GAIN, STANDS = 0.05, 0.10, 0.03, 0.05
# Another scale is another loss, which finds a little more or less on any model: 0.036 on one of D4's cases. Saturated
# logits cost an attack more than 0.1.
SCALE_GAIN = 0.06


@dataclass(frozen=True)
class Check:
    """Outcome of one check.

    Attributes:
        check: what should hold.
        result: "passed", "failed" or "not run".
        figure: the number behind it, in words.
    """

    check: str
    result: str
    figure: str


@dataclass(frozen=True)
class Measure:
    """What the numbers of the evidence measure.

    Attributes:
        word: its name in the checks.
        key: its name in the results.
    """

    word: str
    key: str


DICE, ACCURACY = Measure("Dice", "dice"), Measure("accuracy", "accuracy")


def verdict(
    presets: Sequence[dict[str, Any]],
    components: Sequence[dict[str, Any]],
    randoms: Sequence[tuple[dict[str, Any], dict[str, Any]]],
    probes: Sequence[dict[str, Any]],
    measure: Measure = DICE,
) -> list[Check]:
    """Judge the evidence on one model.

    Args:
        presets: results of attacks, as `CaseAudit.preset` gives them.
        components: results of their parts, as `CaseAudit.component` gives them.
        randoms: pairs of a preset's result and the result of white noise (`CaseAudit.random`) at its ε.
        probes: results of `audit.probes`, one for each case probed. One that stands for several has their number as
            "cases", and may name its black boxes as "black_box".
        measure: what is measured; the keys of the results above that begin with "dice" begin with its key.
    """
    precision = [probe for probe in probes if probe.get(f"{measure.key}_full_precision") is not None]
    return [
        _gradients(components),
        _converged(components, measure),
        _more_steps(probes, measure),
        _huge_noise(probes, measure),
        _random_noise(randoms, measure),
        _black_box(probes, measure),
        _scale(probes, measure),
        _ranks(presets, measure),
        _deterministic(probes),
        _inside_the_ball(presets),
        *([_precision(precision, measure)] if precision else []),  # on a CPU there is nothing to compare
    ]


def is_conclusive(checks: Iterable[Check]) -> bool:
    """Whether every check passed."""
    return all(check.result == PASSED for check in checks)


def as_rows(model: str, checks: Sequence[Check]) -> list[dict[str, Any]]:
    """Return the checks of a model as the report and the summary hold them."""
    conclusive = is_conclusive(checks)
    return [{"model": model, **asdict(check), "conclusive": conclusive} for check in checks]


def _judge(check: str, passed: bool | None, figure: str) -> Check:
    return Check(check, NOT_RUN if passed is None else PASSED if passed else FAILED, figure)


def _gradients(components: Sequence[dict[str, Any]]) -> Check:
    traces = [entry["trace"] for entry in components if entry["trace"]["steps"]]
    steps, zero, broken = (sum(trace[key] for trace in traces) for key in ("steps", "zero", "not_finite"))
    passed = None if steps == 0 else broken == 0 and zero <= VANISHED * steps
    return _judge(
        "gradients are finite and do not vanish", passed, f"{zero} zero and {broken} not finite of {steps} gradients"
    )


def _converged(components: Sequence[dict[str, Any]], measure: Measure) -> Check:
    # an attack that has reached Dice 0 has left in the middle of its rise, and had nothing more to gain
    unfinished = [entry["trace"] for entry in components if entry[measure.key] > 0]
    courses = [trace["loss"] for trace in unfinished if trace.get("keeps_form") and len(trace["loss"]) >= 20]
    rises = [_late_rise(losses) for losses in courses]
    name = "the loss has stopped rising at the last step"
    if not rises:
        return _judge(name, None, "no attack of 20 steps or more with a loss that keeps its form was run to its end")
    figure = f"from the last but one to the last tenth it rises by {100 * fmean(rises):.1f} % of its range"
    return _judge(name, fmean(rises) < STILL_RISING, figure)


def _cases(probes: Sequence[dict[str, Any]]) -> int:
    """Number of cases that the probes stand for."""
    return sum(probe.get("cases", 1) for probe in probes)


def _late_rise(losses: Sequence[float]) -> float:
    """Rise of the mean loss from the last but one to the last tenth of the steps, as a share of the loss's range."""
    tenth, span = len(losses) // 10, max(losses) - min(losses)
    return max(0.0, fmean(losses[-tenth:]) - fmean(losses[-2 * tenth : -tenth])) / span if span else 0.0


def _more_steps(probes: Sequence[dict[str, Any]], measure: Measure) -> Check:
    name = f"twice the steps find no much lower {measure.word}"
    return _attacked_again(name, "twice_the_steps", GAIN, probes, measure)


def _scale(probes: Sequence[dict[str, Any]], measure: Measure) -> Check:
    name = f"no other scale of the logits finds much lower {measure.word}"
    return _attacked_again(name, "other_scales", SCALE_GAIN, probes, measure)


def _attacked_again(name: str, how: str, allowed: float, probes: Sequence[dict[str, Any]], measure: Measure) -> Check:
    """Judge what another attack finds beyond the first one, in the mean of the probes."""
    gains = [probe[measure.key] - probe[f"{measure.key}_{how}"] for probe in probes]
    if not gains:
        return _judge(name, None, "no cases probed")
    figure = f"{measure.word} lower by {max(fmean(gains), 0.0):.3f} in the mean of {_cases(probes)}"
    return _judge(name, fmean(gains) <= allowed, figure)


def _huge_noise(probes: Sequence[dict[str, Any]], measure: Measure) -> Check:
    found = [probe[f"{measure.key}_huge"] for probe in probes]
    figure = f"{measure.word} {fmean(found):.3f} at ε = {probes[0]['eps_huge']:g}" if found else "no cases probed"
    return _judge("very large noise breaks the model", fmean(found) <= STANDS if found else None, figure)


def _random_noise(randoms: Sequence[tuple[dict[str, Any], dict[str, Any]]], measure: Measure) -> Check:
    beaten = sum(min(white["kinds"].values()) < attacked[measure.key] - 1e-3 for attacked, white in randoms)
    figure = f"random noise did better in {beaten} of {len(randoms)} results"
    return _judge("no random noise beats an attack", beaten == 0 if randoms else None, figure)


def _black_box(probes: Sequence[dict[str, Any]], measure: Measure) -> Check:
    gains = [probe[measure.key] - probe[f"{measure.key}_black_box"] for probe in probes]
    if not gains:
        return _judge("no black-box attack beats the gradient", None, "no cases probed")
    found, before = (fmean(probe[measure.key + end] for probe in probes) for end in ("_black_box", ""))
    figure = probes[0].get("black_box") or f"Square attack, {probes[0]['queries']} queries"
    figure += f": {measure.word} {found:.3f} against {before:.3f}, mean of {_cases(probes)}"
    return _judge("no black-box attack beats the gradient", max(gains) <= GAIN, figure)


def _ranks(presets: Sequence[dict[str, Any]], measure: Measure) -> Check:
    levels = {entry["eps"] for entry in presets}
    dead = {eps for eps in levels if all(entry[measure.key] < 0.01 for entry in presets if entry["eps"] == eps)}
    figure = f"all cases are at 0 for {len(dead)} of {len(levels)} noise levels"
    return _judge("the noise levels leave something to rank", dead != levels if levels else None, figure)


def _deterministic(probes: Sequence[dict[str, Any]]) -> Check:
    differences = [probe["repeat_difference"] for probe in probes]
    figure = f"largest difference of logits {max(differences):.2g}" if differences else "no cases probed"
    return _judge("the model is deterministic", max(differences) == 0 if differences else None, figure)


def _inside_the_ball(presets: Sequence[dict[str, Any]]) -> Check:
    keys = [entry["noise"]["norm"].lower() for entry in presets]
    excess = [entry["noise"][key] / entry["units"][key] for key, entry in zip(keys, presets, strict=True)]
    figure = f"largest noise {max(excess):.6f} of its bound" if excess else "no noise"
    return _judge("the noise stays inside its bound", max(excess) <= 1 + 1e-5 if excess else None, figure)


def _precision(probes: Sequence[dict[str, Any]], measure: Measure) -> Check:
    gains = [probe[measure.key] - probe[f"{measure.key}_full_precision"] for probe in probes]
    figure = f"in full precision {measure.word} is lower by {max(fmean(gains), 0.0):.3f} in the mean of {len(gains)}"
    return _judge("mixed precision does not weaken the attack", fmean(gains) <= GAIN, figure)
