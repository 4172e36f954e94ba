"""All that an audit measures of one case, before its evidence is judged."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from nnunet_ima.evidence.records import (
    Certificate,
    Checked,
    Compressed,
    Margin,
    Result,
    Shifted,
    WhiteNoise,
    WorstShift,
)
from nnunet_ima.evidence.store import level_key
from nnunet_ima.evidence.verdict import Attempt, Course
from nnunet_ima.segmentation.case_audit import CaseAudit
from nnunet_ima.segmentation.certificate import certificate
from nnunet_ima.segmentation.frequency import compressed
from nnunet_ima.segmentation.input_check import find_likeness
from nnunet_ima.segmentation.margin import margin
from nnunet_ima.segmentation.settings import Settings
from nnunet_ima.segmentation.shifted import shifted
from nnunet_ima.segmentation.target import Watch
from nnunet_ima.segmentation.worst_shift import worst_shift


@dataclass
class Measured:
    """What was found of a case."""

    records: list[Result] = field(default_factory=list)
    attempts: list[Attempt] = field(default_factory=list)
    courses: list[Course] = field(default_factory=list)
    margins: list[Margin] = field(default_factory=list)
    certificates: list[Certificate] = field(default_factory=list)
    compressed: list[Compressed] = field(default_factory=list)
    shifted: list[Shifted] = field(default_factory=list)
    checked: list[Checked] = field(default_factory=list)
    worst_shifts: list[WorstShift] = field(default_factory=list)


def count(settings: Settings) -> int:
    """Measurements of a case that are told one by one."""
    per_case = len(settings.eps) * len(settings.attacks) + len(settings.smoothings) + len(settings.vafa) + 1
    if settings.shift:
        per_case += len(settings.shift.disturbances) * len(settings.shift.severities) + 1
    return per_case + (settings.worst_shift is not None)


def measure(audit: CaseAudit, watch: Watch, told: Callable[[], object]) -> Measured:
    """Measure a case as its audit's settings say.

    Args:
        audit: of the case.
        watch: told of the progress inside a measurement.
        told: called after each one.

    Raises:
        ValueError: the case cannot be measured.
    """
    settings, found = audit.settings, Measured(records=[audit.clean()])
    told()
    for eps in settings.eps:
        for attack in settings.attacks:
            found.records.append(audit.preset(attack, eps, watch))
            found.attempts.append(_attempt(found.records[-1], audit.random(eps)))
            told()
        audit.close_level(eps)
    if settings.margins and settings.eps:
        found.margins.append(margin(audit, watch))
    for smoothing in settings.smoothings:
        found.certificates.append(certificate(audit, smoothing, watch))
        told()
    for q_max in settings.vafa:
        found.compressed.append(compressed(audit, q_max, watch))
        told()
    likeness = find_likeness(audit.pipeline.model) if settings.shift else None
    for record, check in shifted(audit, settings.shift, watch, likeness) if settings.shift else ():
        found.shifted.append(record)
        found.checked += [check] if check is not None else []
        told()
    if settings.worst_shift:
        found.worst_shifts.append(worst_shift(audit, settings.worst_shift, watch))
        told()
    audit.finish()
    standing = {f"{record.worst_component}@{level_key(record.eps)}" for record in found.records}
    found.courses += [Course(it.dice, it.trace, name in standing) for name, it in audit.components.items()]
    return found


def _attempt(record: Result, white: WhiteNoise) -> Attempt:
    """A result as the checks see it; noise and its bound in the norm that bounds it."""
    size = record.noise
    assert size is not None  # the result is not that without noise
    bound = record.units[size.norm.lower()]
    assert bound is not None  # the norm of the noise is always told
    return Attempt(record.eps, record.dice, size.size, bound, min(white.kinds.values()))
