"""A disturbance as a function of a few numbers through which gradients flow, so that the worst one can be searched.

A `Change` has a box: numbers in physical units, of which those in the box are as realistic as a disturbance of that
severity. A `Kind` makes it for a scan; what it needs to know of the scan, such as its floor, is looked up then.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from nnunet_ima.shift.scan import Scan


@dataclass(frozen=True)
class Change:
    """A change of one scan, deterministic given its parameters.

    Attributes:
        name: of its kind.
        low: smallest parameters (P,), in physical units.
        high: largest ones (P,).
        identity: parameters (P,) that change nothing.
        acting: of an intensity: channels (C, Z, Y, X), in raw units, and parameters to channels. Of a geometry:
            positions (..., 3) in mm along z, y and x from the scan's middle, and parameters to the positions that are
            shown there.
        telling: parameters in words.
        geometry: it moves, and the label with it.
    """

    name: str
    low: Tensor
    high: Tensor
    identity: Tensor
    acting: Callable[[Tensor, Tensor], Tensor]
    telling: Callable[[Tensor], str]
    geometry: bool = False


@dataclass(frozen=True)
class Kind:
    """A kind of change, in five severities.

    Attributes:
        name: under which results are stored.
        modalities: whose scans it happens to; "any": to all.
        severities: five numbers in `unit`, each worse than the one before.
        unit: of the severities.
        parameters: what is searched, in words.
        making: scan, physical severity, seed and device to the change.
        lacking: what a scan lacks for it, as a sentence; "" if nothing.
    """

    name: str
    modalities: tuple[str, ...]
    severities: tuple[float, float, float, float, float]
    unit: str
    parameters: str
    making: Callable[[Scan, float, int, torch.device], Change]
    lacking: Callable[[Scan], str] = lambda _: ""

    def happens_to(self, scan: Scan) -> bool:
        """Whether it can happen to a scan."""
        return bool({scan.modality, "any"} & set(self.modalities)) and not self.lacking(scan)


def between(low: float, high: float, count: int = 1) -> tuple[Tensor, Tensor]:
    """The box of some numbers with the same limits."""
    return torch.full((count,), float(low)), torch.full((count,), float(high))


def per_channel(values: list[float], device: torch.device) -> Tensor:
    """Numbers of the channels, to be used with (C, Z, Y, X)."""
    return torch.tensor(values, device=device, dtype=torch.float32).reshape(-1, 1, 1, 1)
