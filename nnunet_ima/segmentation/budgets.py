"""The units in which an audit's noise is asked for and told: paper, L2, RMS and raw intensities."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from nnunet_ima.datasets.tasks import find_task
from nnunet_ima.perturbation.budget import Budget
from nnunet_ima.perturbation.norms import NORMS

UNITS = ("paper", "l2", "rms", "raw")


@dataclass(frozen=True)
class NoiseUnits:
    """Converts between the units of noise on one volume.

    Attributes:
        norm: name in `NORMS`.
        elements: image channels × voxels of the preprocessed volume.
        reference_elements: elements at which the paper's unit is quoted; None: there is none for this data set.
        scale: raw intensity units per σ, of each channel; None where normalisation hides it.
    """

    norm: str
    elements: int
    reference_elements: int | None
    scale: Sequence[float] | None

    def radius(self, eps: float, unit: str) -> float:
        """Largest norm, in σ, of noise on this volume.

        Args:
            eps: the noise level; in the units "rms" and "raw" it bounds the root mean square for L2, every element for
                L∞.
            unit: "paper", "l2" (the norm itself, of noise that L2 bounds), "rms" (σ per element) or "raw" (intensity
                units per element).

        Raises:
            ValueError: the unit is unknown or has no meaning here.
        """
        if unit not in UNITS:
            msg = f"unknown unit of noise {unit!r}; known are {', '.join(UNITS)}"
            raise ValueError(msg)
        per_element = NORMS[self.norm].growth(self.elements)
        if unit == "l2":
            if self.norm != "L2":
                msg = f"the unit l2 is the L2 norm, but noise is bounded in {self.norm}; use --eps-unit rms"
                raise ValueError(msg)
            return eps
        if unit == "rms":
            return eps * per_element
        if unit == "raw":
            scale = set(self.scale or ())
            if len(scale) != 1:
                msg = "raw units need a single image channel whose normalisation is known; use --eps-unit rms"
                raise ValueError(msg)
            return eps / scale.pop() * per_element
        if self.reference_elements is None:
            msg = "the model's plans and task give no reference size for the paper's unit of ε; use --eps-unit rms"
            raise ValueError(msg)
        return Budget(self.norm, self.elements, self.reference_elements).effective(eps)

    def describe(self, radius: float) -> dict[str, float | None]:
        """Return a noise of this norm in all units; None where a unit has no meaning.

        The norm itself stands under its name in small letters; "rms" and "raw" are per element, at most, of L∞.
        """
        rms = radius / NORMS[self.norm].growth(self.elements)
        paper = None
        if self.reference_elements is not None:
            paper = radius / Budget(self.norm, self.elements, self.reference_elements).scale
        norms = {name.lower(): radius if self.norm == name else None for name in NORMS}
        return {"paper": paper, **norms, "rms": rms, "raw": self.raw(rms)}

    def raw(self, rms: float) -> float | None:
        """Return noise per element in raw intensity units; None where normalisation hides them."""
        return None if not self.scale else rms * math.sqrt(sum(s * s for s in self.scale) / len(self.scale))


def reference_elements(plans: dict[str, Any]) -> int | None:
    """Return the number of elements at which ε is quoted for a model, from its plans or the packaged task."""
    own = (plans.get("ima") or {}) | (plans.get("schedule") or {})
    if "reference_elements" in own:
        return int(own["reference_elements"])
    task = find_task(plans["dataset_name"])
    return None if task is None else math.prod(task.reference_shape)


def default_levels(plans: dict[str, Any], norm: str, unit: str) -> tuple[float, ...] | None:
    """Return noise levels for a model when nobody has named any; None where none are known in this norm and unit."""
    task = find_task(plans["dataset_name"])
    if task is not None:
        return task.audit_eps if norm == task.schedule["norm"] and unit == "paper" else None
    return (0.0, 0.02, 0.05, 0.1, 0.2, 0.4) if unit == "rms" else None
