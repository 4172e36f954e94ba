"""Units of ε: one number for 2D slices, 3D patches and whole volumes.

An L2 norm means nothing without the number of elements. The paper quotes ε as the norm on one 2D network input of
N_ref elements; with N elements the same ε stands for the same noise density, ε·sqrt(N / N_ref).
"""

from __future__ import annotations

from dataclasses import dataclass

from nnunet_ima.perturbation.norms import NORMS


@dataclass(frozen=True)
class Budget:
    """Converts ε between the paper's unit, the norm on the tensor at hand, and RMS noise in σ.

    Attributes:
        norm: name in `NORMS`.
        elements: number of elements that may be perturbed in one sample (image channels × voxels).
        reference_elements: number of elements at which ε is quoted.

    Example:
        >>> round(Budget("L2", elements=40 * 56 * 40, reference_elements=2240).effective(15.0), 2)
        94.87
        >>> round(Budget("L2", elements=2240, reference_elements=2240).rms(15.0), 3)
        0.317
    """

    norm: str
    elements: int
    reference_elements: int

    @property
    def scale(self) -> float:
        """Effective norm per unit of ε."""
        return NORMS[self.norm].growth(self.elements / self.reference_elements)

    def effective(self, eps: float) -> float:
        """Norm on the tensor at hand, in σ."""
        return eps * self.scale

    def rms(self, eps: float) -> float:
        """RMS noise per element, in σ; for L∞ the largest there can be."""
        return eps / NORMS[self.norm].growth(self.reference_elements)

    def describe(self, eps: float) -> str:
        """Name an ε in all units."""
        return (
            f"{self.norm} ε = {eps:g} on {self.reference_elements} elements: "
            f"norm {self.effective(eps):.4g} on {self.elements} elements, RMS at most {self.rms(eps):.4g} σ"
        )
