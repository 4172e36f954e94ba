"""An audit from opened models to its summary: every model, every case, and the judgement of the evidence."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from statistics import fmean
from typing import Any

from tqdm import tqdm

from nnunet_ima.evidence.engine import Engine
from nnunet_ima.evidence.findings import Findings
from nnunet_ima.evidence.probes import telling_level
from nnunet_ima.evidence.records import Failure, Result, WhiteNoise
from nnunet_ima.evidence.store import Store
from nnunet_ima.evidence.verdict import Attempt, Check, Course, judgements, verdict
from nnunet_ima.inference.cases import Case, check_case
from nnunet_ima.inference.pipeline import Pipeline
from nnunet_ima.inference.volumes import Volumes
from nnunet_ima.segmentation.case_audit import CaseAudit
from nnunet_ima.segmentation.certificate import certificate
from nnunet_ima.segmentation.frequency import compressed
from nnunet_ima.segmentation.input_check import find_likeness
from nnunet_ima.segmentation.margin import margin
from nnunet_ima.segmentation.probes import probe
from nnunet_ima.segmentation.settings import Settings
from nnunet_ima.segmentation.shift_summary import shift_checks
from nnunet_ima.segmentation.shifted import shifted
from nnunet_ima.segmentation.target import Watch
from nnunet_ima.segmentation.transfer import transfer_check, transferred
from nnunet_ima.shift.likeness import Likeness

AT_HAND = 4  # cases whose audits are kept until they are probed

Faults = Mapping[tuple[str, str], Sequence[str]]
"""Faults of each case by the names of model and case, one sentence each; see `inference.cases.check_case`."""


def find_faults(pipelines: Mapping[str, Pipeline], cases: Sequence[Case]) -> Faults:
    """Look at all cases before any work."""
    pairs = [(name, case) for name in pipelines for case in cases]
    often = 0.2 if sys.stderr.isatty() else 30.0  # seconds; a log file would fill up
    with tqdm(pairs, desc="looking at the cases", unit="case", mininterval=often, delay=often, leave=False) as bar:
        return {(name, case.name): check_case(case, pipelines[name].model) for name, case in bar}


def run_audit(
    pipelines: Mapping[str, Pipeline],
    cases: Sequence[Case],
    settings: Settings,
    store: Store,
    probes: int,
    faults: Faults | None = None,
    volumes: Volumes | None = None,
) -> Findings:
    """Measure all models on all cases; what the store holds already is not measured again.

    Args:
        pipelines: inference of each model by its name.
        cases: the same for all models.
        settings: what to measure.
        store: keeps the results.
        probes: number of cases of each model that are measured again to judge the evidence.
        faults: of the cases, as `find_faults` finds them; None: they are looked for now.
        volumes: reads the cases; None: one of its own.
    """
    faults = find_faults(pipelines, cases) if faults is None else faults
    engine, volumes = Engine(store), volumes or Volumes()
    findings = Findings()
    per_case = len(settings.eps) * len(settings.attacks) + len(settings.smoothings) + len(settings.vafa) + 1
    if settings.shift:
        per_case += len(settings.shift.disturbances) * len(settings.shift.severities) + 1
    with _progress(len(pipelines) * len(cases) * per_case) as (bar, watch):
        audits = []
        for name, pipeline in pipelines.items():
            bar.set_description(name)
            audit = _ModelAudit(name, pipeline, settings, engine, volumes, bar, watch, faults)
            audit.measure(cases, probes)
            audit.judge(probes)
            audits.append(audit)
        for audit in audits:
            audit.transfer([other for other in audits if other is not audit])
            findings.records += audit.found.records
            findings.margins += audit.found.margins
            findings.certificates += audit.found.certificates
            findings.compressed += audit.found.compressed
            findings.shifted += audit.found.shifted
            findings.checked += audit.found.checked
            findings.transferred += audit.found.transferred
            findings.verdicts += judgements(audit.name, audit.checks)
            findings.failed += audit.found.failed
    return findings


@dataclass
class _ModelAudit:
    """The audit of one model."""

    name: str
    pipeline: Pipeline
    settings: Settings
    engine: Engine
    volumes: Volumes
    bar: Any
    watch: Watch
    faults: Faults
    found: Findings = field(default_factory=Findings)
    measured: dict[str, tuple[Case, CaseAudit | None]] = field(default_factory=dict)
    attempts: list[Attempt] = field(default_factory=list)
    courses: list[Course] = field(default_factory=list)
    checks: list[Check] = field(default_factory=list)

    @cached_property
    def likeness(self) -> Likeness | None:
        """What the model's training scans look like, if anybody has learnt it."""
        return find_likeness(self.pipeline.model)

    def measure(self, cases: Sequence[Case], probes: int) -> None:
        """Measure the cases; one that cannot be measured is noted, and the others go on."""
        for case in cases:
            try:
                if faults := self.faults[self.name, case.name]:
                    raise ValueError("; ".join(faults))
                audit = self._open(case)
                self._measure(audit, self._watch(case))
                # the first ones are probed: their volume and their logits stay at hand, unless they are many
                self.measured[case.name] = (case, audit if len(self.measured) < min(probes, AT_HAND) else None)
            except (ValueError, MemoryError) as error:
                self._fail(case, error)

    def _fail(self, case: Case, error: Exception) -> None:
        told = case.told(str(error))
        self.found.failed.append(Failure(model=self.name, case=case.name, error=told))
        tqdm.write(f"{case.name}: {told}", file=sys.stderr)

    def judge(self, probes: int) -> None:
        """Measure a few cases again, and judge the evidence."""
        records = [record for record in self.found.records if record.attack != "clean"]
        probed = []
        for case, audit in list(self.measured.values())[:probes] if records else []:
            level = _telling_level(records, self.settings.attacks[0])
            try:
                probed.append(probe(audit or self._open(case), level, self._watch(case)))
            except (ValueError, MemoryError) as error:
                self._fail(case, error)
        self.checks += verdict(self.attempts, self.courses, probed) if records or not self.found.shifted else []
        self.checks += shift_checks(self.found.shifted) if self.found.shifted else []

    def transfer(self, others: Sequence[_ModelAudit]) -> None:
        """Look at the noise that was made for the other models; it costs a prediction each."""
        for case, audit in self.measured.values():
            sources = [it for other in others for it in other.worst(case.name)]
            here = (audit or self._open(case)) if sources else None
            found = [transferred(here, source, self.engine.store) for source in sources if here is not None]
            self.found.transferred += [record for record in found if record is not None]
        if self.found.transferred:
            self.checks.append(transfer_check(self.found.transferred, self.found.records))

    def worst(self, case: str) -> list[Result]:
        """The worst result of a case at each noise level."""
        attacked = [record for record in self.found.records if record.case == case and record.eps]
        return [
            min((record for record in attacked if record.eps == eps), key=lambda record: record.dice)
            for eps in dict.fromkeys(record.eps for record in attacked)
        ]

    def _measure(self, audit: CaseAudit, watch: Watch) -> None:
        found, attempts, margins = [audit.clean()], [], []
        self.bar.update()
        for eps in self.settings.eps:
            for attack in self.settings.attacks:
                found.append(audit.preset(attack, eps, watch))
                attempts.append(_attempt(found[-1], audit.random(eps)))
                self.bar.update()
            audit.close_level(eps)
        if self.settings.margins and self.settings.eps:
            margins = [margin(audit, watch)]
        certificates = []
        for smoothing in self.settings.smoothings:
            certificates.append(certificate(audit, smoothing, watch))
            self.bar.update()
        frequency = []
        for q_max in self.settings.vafa:
            frequency.append(compressed(audit, q_max, watch))
            self.bar.update()
        disturbed, checked = [], []
        for record, check in shifted(audit, self.settings.shift, watch, self.likeness) if self.settings.shift else ():
            disturbed.append(record)
            checked += [check] if check is not None else []
            self.bar.update()
        audit.finish()
        self.found.records += found  # all of a case or nothing, so that means compare like with like
        self.found.margins += margins
        self.found.certificates += certificates
        self.found.compressed += frequency
        self.found.shifted += disturbed
        self.found.checked += checked
        self.attempts += attempts
        self.courses += [Course(result.dice, result.trace) for result in audit.components.values()]

    def _open(self, case: Case) -> CaseAudit:
        return CaseAudit(self.name, self.pipeline, case, self.settings, self.engine, self.volumes)

    def _watch(self, case: Case) -> Watch:
        return lambda title, worst: self.watch(f"{case.name} {title}", worst)


def _telling_level(records: Sequence[Result], attack: str) -> float:
    of_attack = [record for record in records if record.attack == attack]
    levels = {record.eps for record in of_attack}
    dice = {eps: fmean(record.dice for record in of_attack if record.eps == eps) for eps in levels}
    return telling_level(dice, fmean(record.clean_dice for record in of_attack))


def _attempt(record: Result, white: WhiteNoise) -> Attempt:
    """A result as the checks see it; noise and its bound in the norm that bounds it."""
    size = record.noise
    assert size is not None  # the result is not that without noise
    bound = record.units[size.norm.lower()]
    assert bound is not None  # the norm of the noise is always told
    return Attempt(record.eps, record.dice, size.size, bound, min(white.kinds.values()))


@contextmanager
def _progress(total: int) -> Iterator[tuple[Any, Watch]]:
    """A bar over measurements, with the attack at work, its looks at the case and the lowest Dice so far."""
    often = 0.2 if sys.stderr.isatty() else 30.0  # seconds; a log file would fill up
    with tqdm(total=total, unit="measurement", smoothing=0.05, mininterval=often, maxinterval=60, miniters=0) as bar:
        running, looks = "", 0

        def watch(title: str, worst: float) -> None:
            nonlocal running, looks
            running, looks = title, looks + 1 if title == running else 1
            bar.set_postfix_str(f"{title} step {looks}: Dice {worst:.3f}", refresh=False)
            bar.update(0)

        yield bar, watch
