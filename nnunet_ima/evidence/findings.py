"""What an audit has found, as gate, summary and report read it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any


@dataclass
class Findings:
    """What an audit has found.

    Attributes:
        records: one for each model, case, attack and ε; see `CaseAudit.preset`. Clean results have the ε 0.
        margins: one for each model and case; see `audit.margin`.
        verdicts: rows of `evidence.verdict.as_rows`, of all models.
        failed: model, case and error of each case that could not be measured.
    """

    records: list[dict[str, Any]] = field(default_factory=list)
    margins: list[dict[str, Any]] = field(default_factory=list)
    verdicts: list[dict[str, Any]] = field(default_factory=list)
    failed: list[dict[str, str]] = field(default_factory=list)

    @property
    def conclusive(self) -> bool:
        """Whether every check passed, nothing is missing and there is evidence at all."""
        return (
            bool(self.records and self.verdicts) and not self.failed and all(row["conclusive"] for row in self.verdicts)
        )
