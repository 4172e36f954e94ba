"""What an audit has found, as gate, summary and report read it."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from nnunet_ima.evidence.records import (
    Certificate,
    Checked,
    Compressed,
    Failure,
    Judgement,
    Margin,
    Result,
    Shifted,
    Transferred,
    WorstShift,
)
from nnunet_ima.evidence.spool import Spool


@dataclass
class Findings:
    """What an audit has found.

    Those that are many or large can lie on disk (`on_disk`), and are looked at one after the other, never all at once.

    Attributes:
        records: one for each model, case, attack and ε, and for each model and case without noise.
        margins: one for each model and case.
        certificates: one for each model, case and σ of smoothing.
        shifted: one for each model, case, disturbance and severity.
        worst_shifts: one for each model and case whose worst change was searched.
        checked: what the input check says of each scan that was disturbed, where it knows the model's training scans.
        compressed: one for each model, case and bound of the frequency attack's tables.
        transferred: with several models, each under the noise of each other one.
        verdicts: of all models; see `evidence.verdict`.
        failed: cases that could not be measured.
    """

    records: list[Result] | Spool[Result] = field(default_factory=list)
    margins: list[Margin] = field(default_factory=list)
    certificates: list[Certificate] = field(default_factory=list)
    shifted: list[Shifted] | Spool[Shifted] = field(default_factory=list)
    worst_shifts: list[WorstShift] | Spool[WorstShift] = field(default_factory=list)
    checked: list[Checked] | Spool[Checked] = field(default_factory=list)
    compressed: list[Compressed] = field(default_factory=list)
    transferred: list[Transferred] = field(default_factory=list)
    verdicts: list[Judgement] = field(default_factory=list)
    failed: list[Failure] = field(default_factory=list)

    @classmethod
    def on_disk(cls, folder: Path) -> Findings:
        """Findings whose large records lie on the disk of a folder."""
        return cls(Spool(folder), shifted=Spool(folder), worst_shifts=Spool(folder), checked=Spool(folder))

    @property
    def conclusive(self) -> bool:
        """Whether every check passed, nothing is missing and there is evidence at all."""
        return bool(self.records and self.verdicts) and not self.failed and all(row.conclusive for row in self.verdicts)
