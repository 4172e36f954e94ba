"""What a disturbance is: it draws its parameters first, all randomness in them, and then acts deterministically."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Literal

import numpy as np
from numpy.random import Generator

from nnunet_ima.shift.scan import Scan

Parameters = dict[str, Any]  # numbers, lists and seeds: what JSON keeps


def _fits(scan: Scan) -> str:
    return ""


@dataclass(frozen=True)
class Disturbance:
    """Something that happens to scans in practice, in five severities.

    Attributes:
        name: under which results are stored; it stands for one disturbance for ever.
        modalities: whose scans it happens to; "any": to all.
        changes: "intensity": values alone; "geometry": label map and, where needed, grid change with the image;
            "header": what the file says of its grid is wrong.
        severities: five numbers, each worse than the one before, in `unit`.
        unit: of the severities.
        reference: where the severities come from, or how they were calibrated.
        drawing: physical severity, scan and generator to parameters.
        applying: scan and parameters to the disturbed scan; it leaves its input as it is.
        lacking: what a scan lacks for it, as a sentence; "" if nothing.
        settles: done once, it does nothing more when it is done again: there are scans to which it has happened before.
    """

    name: str
    modalities: tuple[str, ...]
    changes: Literal["intensity", "geometry", "header"]
    severities: tuple[float, float, float, float, float]
    unit: str
    reference: str
    drawing: Callable[[float, Scan, Generator], Parameters]
    applying: Callable[[Scan, Mapping[str, Any]], Scan]
    lacking: Callable[[Scan], str] = _fits
    settles: bool = False

    def __post_init__(self) -> None:
        """Refuse severities without an order."""
        steps = [np.sign(later - earlier) for earlier, later in pairwise(self.severities)]
        if steps not in ([1] * 4, [-1] * 4):
            msg = f"{self.name} needs five severities that rise or fall, got {self.severities}"
            raise ValueError(msg)

    def refusal(self, scan: Scan) -> str:
        """Why this cannot happen to a scan; "" if it can."""
        if not {scan.modality, "any"} & set(self.modalities):
            return f"{self.name} happens to {' and '.join(self.modalities)} scans, this one is {scan.modality!r}"
        lacking = self.lacking(scan)
        return f"{self.name}: {lacking}" if lacking else ""

    def draw(self, severity: int, scan: Scan, rng: Generator) -> Parameters:
        """Draw what is to happen to a scan.

        Args:
            severity: 1 to 5; 0 is nothing at all.
            scan: what it will happen to; parameters may depend on its grid and intensities.
            rng: source of all randomness.

        Returns:
            Parameters for `apply`, as JSON keeps them. Noise that is too large to list is given by a seed.

        Raises:
            ValueError: there is no such severity, or `refusal` has a reason.
        """
        if severity not in range(6):
            msg = f"severity of {self.name} must be a whole number from 0 to 5, got {severity!r}"
            raise ValueError(msg)
        self._check(scan)
        return self.drawing(self.severities[int(severity) - 1], scan, rng) if severity else {}

    def apply(self, scan: Scan, parameters: Mapping[str, Any]) -> Scan:
        """Disturb a scan; the same parameters always give the same.

        Raises:
            ValueError: `refusal` has a reason.
        """
        self._check(scan)
        return self.applying(scan, parameters) if parameters else scan

    def _check(self, scan: Scan) -> None:
        if reason := self.refusal(scan):
            raise ValueError(reason)
