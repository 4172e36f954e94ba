"""An audit from opened models to its summary: every model, every case, and the judgement of the evidence."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from statistics import fmean
from typing import Any

from tqdm import tqdm

from nnunet_ima.evidence.engine import Engine
from nnunet_ima.evidence.findings import Findings
from nnunet_ima.evidence.probes import telling_level
from nnunet_ima.evidence.records import Failure, Result
from nnunet_ima.evidence.store import Store
from nnunet_ima.evidence.verdict import Attempt, Check, Courses, judgements, verdict
from nnunet_ima.inference.cases import Case, check_case
from nnunet_ima.inference.pipeline import Pipeline
from nnunet_ima.inference.volumes import Volumes
from nnunet_ima.segmentation.apart import Apart
from nnunet_ima.segmentation.case_audit import CaseAudit
from nnunet_ima.segmentation.measured import Measured, count, measure
from nnunet_ima.segmentation.probes import probe
from nnunet_ima.segmentation.settings import Settings
from nnunet_ima.segmentation.shift_summary import shift_checks
from nnunet_ima.segmentation.target import Watch
from nnunet_ima.segmentation.transfer import transfer_check, transferred
from nnunet_ima.segmentation.worst_shift_summary import worst_shift_checks

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
    helpers: Apart | None = None,
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
        helpers: workers that fill the store first; None: all is measured here.
    """
    faults = find_faults(pipelines, cases) if faults is None else faults
    engine, volumes = Engine(store), volumes or Volumes()
    if helpers is not None:
        pairs = [(name, case) for name in pipelines for case in cases if not faults[name, case.name]]
        faults = {**faults, **{pair: [why] for pair, why in helpers.measure(pairs).items()}}
    findings = Findings.on_disk(store.folder)
    with _progress(len(pipelines) * len(cases) * count(settings)) as (bar, watch):
        audits = [
            _ModelAudit(name, pipeline, settings, engine, volumes, bar, watch, faults, Findings.on_disk(store.folder))
            for name, pipeline in pipelines.items()
        ]
        for audit in audits:
            audit.measure(cases, probes)
        _judge(audits, probes, helpers)
        _transfer(audits, helpers)
        for audit in audits:
            findings.records.extend(audit.found.records)
            findings.margins += audit.found.margins
            findings.certificates += audit.found.certificates
            findings.compressed += audit.found.compressed
            findings.shifted.extend(audit.found.shifted)
            findings.worst_shifts.extend(audit.found.worst_shifts)
            findings.checked.extend(audit.found.checked)
            findings.transferred += audit.found.transferred
            findings.verdicts += judgements(audit.name, audit.checks)
            findings.failed += audit.found.failed
    return findings


def _judge(audits: Sequence[_ModelAudit], probes: int, helpers: Apart | None) -> None:
    lost: Mapping[tuple[str, str], str] = {}
    if helpers is not None:
        wanted = [(audit, audit.to_probe(probes)) for audit in audits]
        lost = helpers.probe([(audit.name, case, level) for audit, found in wanted for case, level in found])
    for audit in audits:
        audit.judge(probes, {case: why for (name, case), why in lost.items() if name == audit.name})


def _transfer(audits: Sequence[_ModelAudit], helpers: Apart | None) -> None:
    lost: Mapping[tuple[str, str], str] = {}
    sources = {audit.name: audit.sources([it for it in audits if it is not audit]) for audit in audits}
    if helpers is not None:
        wanted = [(audit, case) for audit in audits for case, _ in audit.measured.values()]
        lost = helpers.transfer(
            [(audit.name, case, found) for audit, case in wanted if (found := sources[audit.name](case.name))]
        )
    for audit in audits:
        audit.transfer(sources[audit.name], {case: why for (name, case), why in lost.items() if name == audit.name})


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
    found: Findings
    measured: dict[str, tuple[Case, CaseAudit | None]] = field(default_factory=dict)
    attempts: list[Attempt] = field(default_factory=list)
    courses: Courses = field(default_factory=Courses)
    checks: list[Check] = field(default_factory=list)

    def measure(self, cases: Sequence[Case], probes: int) -> None:
        """Measure the cases; one that cannot be measured is noted, and the others go on."""
        self.bar.set_description(self.name)
        for case in cases:
            try:
                if faults := self.faults[self.name, case.name]:
                    raise ValueError("; ".join(faults))
                audit = self._open(case)
                self._add(measure(audit, self._watch(case), self.bar.update))
                # the first ones are probed: their volume stays at hand, unless they are many
                self.measured[case.name] = (case, audit if len(self.measured) < min(probes, AT_HAND) else None)
            except (ValueError, MemoryError) as error:
                self._fail(case, error)

    def _add(self, measured: Measured) -> None:
        """Take what was found of a case: all or nothing, so that means compare like with like."""
        self.found.records.extend(measured.records)
        self.found.margins += measured.margins
        self.found.certificates += measured.certificates
        self.found.compressed += measured.compressed
        self.found.shifted.extend(measured.shifted)
        self.found.checked.extend(measured.checked)
        self.found.worst_shifts.extend(measured.worst_shifts)
        self.attempts += measured.attempts
        for course in measured.courses:
            self.courses.add(course)

    def _fail(self, case: Case, error: Exception) -> None:
        told = case.told(str(error))
        self.found.failed.append(Failure(model=self.name, case=case.name, error=told))
        tqdm.write(f"{case.name}: {told}", file=sys.stderr)

    def to_probe(self, probes: int) -> list[tuple[Case, float]]:
        """Cases that are measured again, and at which level."""
        if not any(record.attack != "clean" for record in self.found.records):
            return []
        level = _telling_level(self.found.records, self.settings.attacks[0])
        return [(case, level) for case, _ in list(self.measured.values())[:probes]]

    def judge(self, probes: int, lost: Mapping[str, str]) -> None:
        """Measure a few cases again, and judge the evidence.

        Args:
            probes: how many.
            lost: cases that killed the workers, and the words for that.
        """
        probed = []
        for case, level in self.to_probe(probes):
            try:
                if case.name in lost:
                    raise ValueError(lost[case.name])
                probed.append(probe(self.measured[case.name][1] or self._open(case), level, self._watch(case)))
            except (ValueError, MemoryError) as error:
                self._fail(case, error)
        attacked = any(record.attack != "clean" for record in self.found.records)
        if attacked or not (self.found.shifted or self.found.worst_shifts):
            self.checks += verdict(self.attempts, self.courses, probed)
        self.checks += shift_checks(self.found.shifted) if self.found.shifted else []
        self.checks += worst_shift_checks(self.found.worst_shifts) if self.found.worst_shifts else []

    def sources(self, others: Sequence[_ModelAudit]) -> Callable[[str], list[Result]]:
        """What tells the worst results of the other models on a case."""
        return lambda case: [it for other in others for it in other.worst(case)]

    def transfer(self, sources: Callable[[str], list[Result]], lost: Mapping[str, str]) -> None:
        """Look at the noise that was made for the other models; it costs a prediction each.

        Args:
            sources: tells of a case where its noise comes from.
            lost: cases that killed the workers, and the words for that.
        """
        for case, audit in self.measured.values():
            if case.name in lost:
                self._fail(case, ValueError(lost[case.name]))
            elif made := sources(case.name):
                here = audit or self._open(case)
                found = [transferred(here, source, self.engine.store) for source in made]
                self.found.transferred += [record for record in found if record is not None]
        if self.found.transferred:
            self.checks.append(transfer_check(self.found.transferred, self.found.records))

    def worst(self, case: str) -> list[Result]:
        """The worst result of a case at each noise level."""
        return [self.found.records[place] for _, place in self._worst_places.get(case, {}).values()]

    @cached_property
    def _worst_places(self) -> dict[str, dict[float, tuple[float, int]]]:
        """For each case and level the lowest Dice, and the place of its record; asked for when all is measured."""
        worst: dict[str, dict[float, tuple[float, int]]] = {}
        for place, record in enumerate(self.found.records):
            if record.eps:
                levels = worst.setdefault(record.case, {})
                levels[record.eps] = min(levels.get(record.eps, (math.inf, place)), (record.dice, place))
        return worst

    def _open(self, case: Case) -> CaseAudit:
        return CaseAudit(self.name, self.pipeline, case, self.settings, self.engine, self.volumes)

    def _watch(self, case: Case) -> Watch:
        return lambda title, worst: self.watch(f"{case.name} {title}", worst)


def _telling_level(records: Iterable[Result], attack: str) -> float:
    of_level: dict[float, list[float]] = {}
    clean = []
    for record in records:
        if record.attack == attack:
            of_level.setdefault(record.eps, []).append(record.dice)
            clean.append(record.clean_dice)
    return telling_level({eps: fmean(dice) for eps, dice in of_level.items()}, fmean(clean))


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
