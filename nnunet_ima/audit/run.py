"""An audit from opened models to its summary: every model, every case, and the judgement of the evidence."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from statistics import fmean
from typing import Any

from tqdm import tqdm

from nnunet_ima.attacks.presets import PRESETS
from nnunet_ima.audit.case_audit import CaseAudit, Settings, Watch
from nnunet_ima.audit.margin import margin
from nnunet_ima.audit.probes import probe
from nnunet_ima.evidence.findings import Findings
from nnunet_ima.evidence.probes import telling_level
from nnunet_ima.evidence.store import Store, level_key
from nnunet_ima.evidence.verdict import as_rows, verdict
from nnunet_ima.inference.cases import Case, check_case
from nnunet_ima.inference.pipeline import Pipeline

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
) -> Findings:
    """Measure all models on all cases; what the store holds already is not measured again.

    Args:
        pipelines: inference of each model by its name.
        cases: the same for all models.
        settings: what to measure.
        store: keeps the results.
        probes: number of cases of each model that are measured again to judge the evidence.
        faults: of the cases, as `find_faults` finds them; None: they are looked for now.
    """
    faults = find_faults(pipelines, cases) if faults is None else faults
    findings = Findings()
    per_case = len(settings.eps) * len(settings.attacks) + 1
    with _progress(len(pipelines) * len(cases) * per_case) as (bar, watch):
        for name, pipeline in pipelines.items():
            bar.set_description(name)
            audit = _ModelAudit(name, pipeline, settings, store, bar, watch, faults)
            audit.measure(cases)
            audit.judge(probes)
            findings.records += audit.found.records
            findings.margins += audit.found.margins
            findings.verdicts += audit.found.verdicts
            findings.failed += audit.found.failed
    return findings


@dataclass
class _ModelAudit:
    """The audit of one model."""

    name: str
    pipeline: Pipeline
    settings: Settings
    store: Store
    bar: Any
    watch: Watch
    faults: Faults
    found: Findings = field(default_factory=Findings)
    measured: list[Case] = field(default_factory=list)

    def measure(self, cases: Sequence[Case]) -> None:
        """Measure the cases; one that cannot be measured is noted, and the others go on."""
        for case in cases:
            try:
                if faults := self.faults[self.name, case.name]:
                    raise ValueError("; ".join(faults))
                self._measure(case)
                self.measured.append(case)
            except (ValueError, MemoryError) as error:
                self._fail(case, error)

    def _fail(self, case: Case, error: Exception) -> None:
        self.found.failed.append({"model": self.name, "case": case.name, "error": str(error)})
        tqdm.write(f"{case.name}: {error}", file=sys.stderr)

    def judge(self, probes: int) -> None:
        """Measure a few cases again, and judge the evidence."""
        records = [record for record in self.found.records if record["attack"] != "clean"]
        probed = []
        for case in self.measured[:probes] if records else []:
            level = _telling_level(records, self.settings.attacks[0])
            try:
                probed.append(probe(self._open(case), level, self._watch(case)))
            except (ValueError, MemoryError) as error:
                self._fail(case, error)
        self.found.verdicts += as_rows(self.name, verdict(records, *self._evidence(records), probed))

    def _measure(self, case: Case) -> None:
        audit, watch = self._open(case), self._watch(case)
        found = [_clean_record(audit, case)]
        self.bar.update()
        for eps in self.settings.eps:
            for attack in self.settings.attacks:
                found.append(audit.preset(attack, eps, watch))
                self.bar.update()
        if self.settings.margins and self.settings.eps:
            self.found.margins.append(margin(audit, watch))
        audit.finish()
        self.found.records += found  # all of a case or nothing, so that means compare like with like

    def _open(self, case: Case) -> CaseAudit:
        try:
            return CaseAudit(self.name, self.pipeline.model, self.pipeline, case, self.settings, self.store)
        except (RuntimeError, OSError) as error:  # what readers of images raise
            reason = str(error).strip().splitlines()[-1] if str(error) else repr(error)
            msg = f"{case.name} cannot be read: {reason}"
            raise ValueError(msg) from error

    def _watch(self, case: Case) -> Watch:
        return lambda title, worst: self.watch(f"{case.name} {title}", worst)

    def _evidence(
        self, records: Sequence[dict[str, Any]]
    ) -> tuple[list[dict[str, Any]], list[tuple[dict[str, Any], dict[str, Any]]]]:
        """Results of the attacks' parts, and each result beside that of white noise."""
        parts = {component.name for attack in self.settings.attacks for component in PRESETS[attack]}
        places = {(record["case"], f"{part}@{level_key(record['eps'])}") for record in records for part in parts}
        components = [self.store.get(self.name, case, "components", place) for case, place in sorted(places)]
        whites = [
            (record, self.store.get(self.name, record["case"], f"random@{level_key(record['eps'])}"))
            for record in records
        ]
        return [entry for entry in components if entry], [(record, white) for record, white in whites if white]


def _telling_level(records: Sequence[dict[str, Any]], attack: str) -> float:
    of_attack = [record for record in records if record["attack"] == attack]
    levels = {record["eps"] for record in of_attack}
    dice = {eps: fmean(record["dice"] for record in of_attack if record["eps"] == eps) for eps in levels}
    return telling_level(dice, fmean(record["clean_dice"] for record in of_attack))


def _clean_record(audit: CaseAudit, case: Case) -> dict[str, Any]:
    clean = audit.clean()
    return {
        "model": audit.name,
        "case": case.name,
        "attack": "clean",
        "eps": 0.0,
        "units": audit.units.describe(0.0),
        **clean,
        "clean_dice": clean["dice"],
        "clean_dice_per_class": clean["dice_per_class"],
        "random_dice": None,
        "stored_dice": None,
    }


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
