"""What an audit of classifiers measures."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from nnunet_ima.attacks.losses import find_loss
from nnunet_ima.attacks.presets import PRESETS, Component
from nnunet_ima.perturbation.norms import NORMS

LARGEST = 1e6  # noise level; squares of larger ones leave single precision


@dataclass(frozen=True)
class AuditSettings:
    """What an audit of classifiers measures.

    Attributes:
        norm: name in `NORMS`.
        eps: noise levels, ascending, above 0. In L2, the norm on an image of `reference_elements` pixels; for L∞ the
            largest change of a pixel.
        attacks: names in the registry of attacks, in the order in which they are run, each on what those before it left
            right; the first one begins the checks of the evidence.
        reference_elements: pixels at which an L2 norm is quoted; 224×224 are the paper's.
        pgd_steps: steps of PGD; other attacks keep those of the registry.
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
        ValueError: noise levels are not ascending and above 0, the norm or an attack is unknown, an attack is not one
            of classifiers, or a number is too small.
    """

    norm: str = "L2"
    eps: tuple[float, ...] = (1.0, 3.0, 5.0, 10.0, 30.0)
    attacks: tuple[str, ...] = ("pgd", "apgd")
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
        unknown = [attack for attack in self.attacks if attack not in PRESETS]
        if unknown or not self.attacks:
            msg = f"unknown attack {', '.join(unknown)!r}; known are {', '.join(PRESETS)}"
            raise ValueError(msg)
        for component in self.components.values():
            find_loss(component.loss or "trained", None)
        if self.spsa_samples % 2:
            msg = f"spsa_samples must be even, got {self.spsa_samples}"
            raise ValueError(msg)
        whole = ("reference_elements", "pgd_steps", "apgd_steps", "square_queries", "spsa_samples", "spsa_steps")
        least = dict.fromkeys((*whole, "noise_draws", "minimal_steps", "batch_size"), 1)
        for name, number in (least | {"check_images": 0, "spsa_images": 0}).items():
            if getattr(self, name) < number:
                msg = f"{name} must be at least {number}, got {getattr(self, name)}"
                raise ValueError(msg)

    @property
    def components(self) -> dict[str, Component]:
        """Attacks by the names under which results are stored, in the order in which they are run."""
        steps = {"pgd": self.pgd_steps, "apgd": self.apgd_steps}
        found = [entry for attack in self.attacks for entry in PRESETS[attack]]
        chosen = {entry.name: entry.with_steps(steps.get(entry.name)) for entry in found}
        return {f"{name}-{entry.steps}" if name in steps else name: entry for name, entry in chosen.items()}

    @property
    def names(self) -> tuple[str, ...]:
        """Names under which the attacks' results are stored."""
        return tuple(self.components)

    def question(self) -> dict[str, Any]:
        """What decides every number; the rest decides which numbers are wanted, so that an audit can grow."""
        wanted = ("eps", "attacks", "minimal", "check_images", "spsa_images")
        return {name: value for name, value in asdict(self).items() if name not in wanted}
