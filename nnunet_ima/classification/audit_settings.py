"""What an audit of classifiers measures."""

from __future__ import annotations

from dataclasses import dataclass

from nnunet_ima.perturbation.norms import NORMS

LARGEST = 1e6  # noise level; squares of larger ones leave single precision


@dataclass(frozen=True)
class AuditSettings:
    """What an audit of classifiers measures.

    Attributes:
        norm: "L2" or "Linf".
        eps: noise levels, ascending, above 0. In L2, the norm on an image of `reference_elements` pixels; for L∞ the
            largest change of a pixel.
        reference_elements: pixels at which an L2 norm is quoted; 224×224 are the paper's.
        pgd_steps: steps of PGD.
        apgd_steps: steps of APGD.
        square_queries: queries of the Square attack.
        spsa_samples: probes for each step of SPSA; even.
        spsa_steps: steps of SPSA.
        spsa_images: images that SPSA attacks, among those checked.
        noise_draws: draws of white noise.
        check_images: images on which the evidence is checked, drawn at random from those right without noise.
        minimal: search the smallest noise that breaks each image.
        minimal_steps: PGD steps at each ε of that search, from noise that broke the image at a larger one.
        batch_size: images in one pass.
        seed: of all random draws.

    Raises:
        ValueError: noise levels are not ascending and above 0, the norm is unknown, or a number is too small.
    """

    norm: str = "L2"
    eps: tuple[float, ...] = (1.0, 3.0, 5.0, 10.0, 30.0)
    reference_elements: int = 224 * 224
    pgd_steps: int = 100
    apgd_steps: int = 100
    square_queries: int = 300
    spsa_samples: int = 128
    spsa_steps: int = 20
    spsa_images: int = 32
    noise_draws: int = 5
    check_images: int = 64
    minimal: bool = True
    minimal_steps: int = 20
    batch_size: int = 64
    seed: int = 0

    def __post_init__(self) -> None:
        if self.norm not in NORMS:
            msg = f"unknown norm {self.norm!r}; known are {', '.join(NORMS)}"
            raise ValueError(msg)
        if list(self.eps) != sorted(set(self.eps)) or any(not 0 < eps <= LARGEST for eps in self.eps):
            msg = f"noise levels must ascend, be above 0 and at most {LARGEST:g}, got {self.eps}"
            raise ValueError(msg)
        if self.spsa_samples % 2:
            msg = f"spsa_samples must be even, got {self.spsa_samples}"
            raise ValueError(msg)
        whole = ("reference_elements", "pgd_steps", "apgd_steps", "square_queries", "spsa_samples", "spsa_steps")
        for name in (*whole, "noise_draws", "minimal_steps", "batch_size"):
            if getattr(self, name) < 1:
                msg = f"{name} must be at least 1, got {getattr(self, name)}"
                raise ValueError(msg)

    @property
    def attacks(self) -> tuple[str, str]:
        """Names of the gradient attacks, in the order in which they are run."""
        return f"pgd-{self.pgd_steps}", f"apgd-{self.apgd_steps}"
