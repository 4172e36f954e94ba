"""What an audit of a segmentation model measures."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from nnunet_ima.segmentation.smoothing import Smoothing


@dataclass(frozen=True)
class Shift:
    """Which disturbances an audit looks at.

    Attributes:
        modality: of the scans: "MR", "CT" or "any".
        disturbances: names.
        severities: from 1 to 5.
    """

    modality: str
    disturbances: tuple[str, ...]
    severities: tuple[int, ...] = (1, 2, 3, 4, 5)


@dataclass(frozen=True)
class WorstShiftSettings:
    """Which worst change an audit searches.

    Attributes:
        modality: of the scans: "MR", "CT" or "any".
        severity: of the boxes, 1 to 5.
        steps: as many gradient steps would use up the passes of a search.
        changes: names of those that are searched together, in their order; (): all that can happen to a scan.
    """

    modality: str
    severity: int = 1
    steps: int = 20
    changes: tuple[str, ...] = ()


_DECIDE_NUMBERS = ("unit", "norm", "reference_elements", "steps", "seed", "tolerance", "save_adversarial")


@dataclass(frozen=True)
class Settings:
    """What an audit measures.

    Attributes:
        attacks: names of presets.
        eps: noise levels, ascending, each above 0.
        unit: of `eps`; see `NoiseUnits.radius`.
        norm: name in `NORMS`.
        reference_elements: elements at which the paper's unit is quoted; None: there is no such unit.
        steps: gradient steps of every attack, see `Component.with_steps`; None: those of the presets.
        seed: of all random draws.
        threshold: Dice below which a prediction counts as failed, for the robustness margin.
        margins: measure the robustness margin of every case.
        tolerance: distance in mm up to which surfaces agree, for the normalised surface Dice.
        save_adversarial: keep the adversarial volumes.
        smoothings: of the certificates that are wanted.
        vafa: bounds of the frequency attack's tables that are wanted; see `segmentation.frequency`.
        shift: realistic disturbances that are looked at; None: none.
        worst_shift: the worst realistic change that is searched; None: none.
    """

    attacks: tuple[str, ...]
    eps: tuple[float, ...]
    unit: str
    norm: str
    reference_elements: int | None
    steps: int | None
    seed: int
    threshold: float
    margins: bool
    tolerance: float
    save_adversarial: bool
    smoothings: tuple[Smoothing, ...] = ()
    vafa: tuple[float, ...] = ()
    shift: Shift | None = None
    worst_shift: WorstShiftSettings | None = None

    def question(self) -> dict[str, Any]:
        """What decides every number; the rest decides which numbers are wanted, so that an audit can grow."""
        return {name: value for name, value in asdict(self).items() if name in _DECIDE_NUMBERS}

    def wanted(self) -> dict[str, Any]:
        """Which numbers are wanted."""
        return {name: value for name, value in asdict(self).items() if name not in _DECIDE_NUMBERS}
