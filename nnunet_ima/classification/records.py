"""What is measured of a classifier and kept; a change here is another `evidence.schema.SCHEMA`."""

from __future__ import annotations

from dataclasses import dataclass

from nnunet_ima.evidence.records import Passes, Trace


@dataclass(frozen=True, kw_only=True)
class Clean:
    """Without noise: classes (N,), 1 where they are right (N,), and logits (N, K)."""

    predicted: tuple[int, ...]
    correct: tuple[int, ...]
    logits: tuple[tuple[float, ...], ...]


@dataclass(frozen=True, kw_only=True)
class Noise:
    """Under white noise: share of the draws under which each image is right (N,), and logits (N, K) of the first."""

    eps: float
    correct: tuple[float, ...]
    logits: tuple[tuple[float, ...], ...]


@dataclass(frozen=True, kw_only=True)
class AttackedImages:
    """Under an attack, of each image.

    Attributes:
        eps: noise level.
        radius: the largest norm of noise allowed.
        predicted: class under the noise that made it wrong; without noise where none did.
        correct: 1 where that is right, 0 where it is wrong.
        carried: 1 where the image was not attacked, because less noise or an attack before made it wrong already.
        noise: norm of the noise that made it wrong; 0 where none did.
        forward: forward passes.
        backward: backward passes.
        trace: the attack's course on the images that stood to the end.
    """

    eps: float
    radius: float
    predicted: tuple[int, ...]
    correct: tuple[int, ...]
    carried: tuple[int, ...]
    noise: tuple[float, ...]
    forward: tuple[int, ...]
    backward: tuple[int, ...]
    trace: Trace


@dataclass(frozen=True, kw_only=True)
class Checked:
    """Some images under an attack that only serves to judge the evidence: their numbers, and 1 where they stood."""

    eps: float
    images: tuple[int, ...]
    right: tuple[int, ...]
    noise: tuple[float, ...]
    forward: tuple[int, ...]
    backward: tuple[int, ...]

    @property
    def broken(self) -> set[int]:
        """Numbers of the images that fell."""
        return {image for image, stood in zip(self.images, self.right, strict=True) if not stood}


@dataclass(frozen=True, kw_only=True)
class Minimal:
    """The smallest noise (N,) that makes each image wrong, in the unit of ε.

    It is 0 for images that are wrong without noise, and None for those that no noise tried made wrong.
    """

    eps: tuple[float | None, ...]
    passes: Passes


@dataclass(frozen=True, kw_only=True)
class Claim:
    """The file of weights whose results stand under a name."""

    sha256: str
