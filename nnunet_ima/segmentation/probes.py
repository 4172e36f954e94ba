"""Extra measurements on a few cases that only serve to judge the evidence (see `evidence.verdict`)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from math import ceil

from nnunet_ima.attacks.presets import PRESETS, Component, find_component
from nnunet_ima.attacks.square import SQUARE_NORMS
from nnunet_ima.evidence.engine import Unit
from nnunet_ima.evidence.probes import HUGE, SCALES
from nnunet_ima.evidence.records import AttackedAgain, Probe, Repeated
from nnunet_ima.evidence.store import level_key
from nnunet_ima.segmentation.case_audit import CaseAudit
from nnunet_ima.segmentation.target import Target, Watch

QUERIES = 300  # of the black box


def probe(case: CaseAudit, eps: float, watch: Watch | None = None) -> Probe:
    """Measure one case again: more steps, a black box, other scales of the logits, huge noise, the same twice.

    Where networks run in mixed precision, the attack is repeated in full precision.

    Args:
        case: the case, already attacked at `eps`.
        eps: noise level; see `evidence.probes.telling_level`.
        watch: told of the progress.
    """
    attack, key, large = case.settings.attacks[0], level_key(eps), HUGE * case.settings.eps[-1]
    worst = str(case.preset(attack, eps).worst_component)
    component = find_component(attack, worst).with_steps(case.settings.steps)

    def again(
        name: str, entry: Component, level: float, title: str, target: Callable[[], Target] | None = None
    ) -> float:
        """Dice under another attack, which its title seeds."""

        def measure(unit: Unit) -> AttackedAgain:
            attacked = case.attack(entry, level, title, watch, target and target())
            return AttackedAgain(dice=case.dice(attacked.x[0]))

        unit = case.unit(f"probes/{name}", level, given=(f"{entry.name}, {entry.steps} steps",))
        return case.engine.result(unit, AttackedAgain, measure).dice

    def on_scale(factor: float) -> float:
        name, title = f"{worst} of logits times {factor:g}", f"logits times {factor:g}@{key}"
        return again(name, component, eps, title, lambda: case.target.scaled(factor))

    def full() -> Target:
        return case.target.through(replace(case.pipeline, mixed_precision=False))

    twice = replace(component, steps=2 * component.steps)
    blind, told = black_box(case.settings.norm)
    precise = None
    if case.pipeline.mixed_precision:
        precise = again(f"{worst} in full precision", component, eps, f"{worst}@{key}", full)
    return Probe(
        eps=eps,
        quality=case.component(component, eps).dice,
        twice_the_steps=again(f"{worst} with twice the steps", twice, eps, f"twice the steps@{key}"),
        other_scales=min(map(on_scale, SCALES)),
        black_box=again("black box", blind, eps, f"black box@{key}"),
        black_box_name=told,
        huge=again(f"{worst} with huge noise", component, large, f"huge@{large:g}"),
        eps_huge=large,
        full_precision=precise,
        repeat_difference=case.engine.result(case.unit("probes/repeat"), Repeated, lambda _: _repeat(case)).difference,
    )


def black_box(norm: str) -> tuple[Component, str]:
    """The attack that sees outputs alone, and its name: Square, or SPSA for norms that Square does not know."""
    if norm in SQUARE_NORMS:
        return replace(PRESETS["square"][0], steps=QUERIES), f"Square attack, {QUERIES} queries"
    spsa = PRESETS["spsa"][0]
    steps = ceil(QUERIES / spsa.passes)
    return replace(spsa, steps=steps), f"SPSA, {steps * spsa.passes} queries"


def _repeat(case: CaseAudit) -> Repeated:
    """Compare the pass that every attack begins with to another one."""
    return Repeated(difference=float(case.target.look().sub_(case.target.look()).abs_().max()))
