"""Randomised smoothing of segmentations: what no noise of a given size can change, with a stated confidence.

A model is asked about many copies of an image under Gaussian noise of σ per element. Where more than a share τ of all
copies agrees on a voxel's label, no further noise of an L2 norm up to σ Φ⁻¹(τ) takes the majority from that label
(Cohen et al. 2019). SegCertify (Fischer et al., ICML 2021) tests this for every voxel on a finite number of copies,
corrects for the number of tests, and abstains where the test does not tell.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
from scipy.stats import binom

from nnunet_ima.inference.volume import Array

ABSTAINED = -1


@dataclass(frozen=True)
class Smoothing:
    """How a smoothed model is asked.

    Attributes:
        sigma: standard deviation of the noise, per element, in σ of the normalised image.
        samples: copies that the tests are made on.
        guesses: copies before them, from which each voxel's candidate label is taken.
        share: τ, the share of all copies that must agree.
        alpha: probability that any voxel of a case is certified wrongly.
    """

    sigma: float
    samples: int = 100
    guesses: int = 10
    share: float = 0.75
    alpha: float = 0.001

    @property
    def radius(self) -> float:
        """L2 norm, in σ of the normalised image, of the noise that is certified against."""
        return self.sigma * NormalDist().inv_cdf(self.share)

    def needed(self, voxels: int) -> int:
        """Copies below which none of so many voxels could be certified, even if all copies agreed on it."""
        return math.ceil(math.log(self.alpha / voxels) / math.log(self.share))


class MajorityVote:
    """A candidate for each voxel, one prediction at a time, in the memory of two maps (Boyer & Moore 1981).

    It is the label with more than half of the votes, where there is one: τ is at least ½, so that no other could be
    certified.
    """

    def __init__(self, shape: tuple[int, ...]) -> None:
        self.candidates = np.zeros(shape, np.int16)
        self._lead = np.zeros(shape, np.int16)

    def add(self, predicted: Array) -> None:
        """Count the votes of a label map."""
        agrees = predicted == self.candidates
        new = ~agrees & (self._lead == 0)
        self.candidates[new] = predicted[new]
        self._lead += np.where(agrees | new, 1, -1).astype(np.int16)


def certified(candidates: Array, agreeing: Array, smoothing: Smoothing) -> Array:
    """Label map of the voxels that pass their test; the others are `ABSTAINED`.

    Each test asks whether a share of at most τ of all copies agrees, with a binomial law; Holm's step-down procedure
    keeps the probability of any wrong rejection below α. All voxels with as many agreeing copies have one p-value, so
    that counts of voxels by agreeing copies are all it needs.

    Args:
        candidates: a label for each voxel, that depends on no copy counted in `agreeing`.
        agreeing: number of copies that agree with it, same shape.
        smoothing: how they were made.
    """
    voxels = np.bincount(agreeing.ravel(), minlength=smoothing.samples + 1)
    p_values = binom.sf(np.arange(smoothing.samples + 1) - 1, smoothing.samples, smoothing.share)
    left, least = agreeing.size, smoothing.samples + 1
    for count in range(smoothing.samples, -1, -1):
        if voxels[count] and p_values[count] > smoothing.alpha / left:
            break
        left, least = left - int(voxels[count]), count
    return np.where(agreeing >= least, candidates, ABSTAINED).astype(np.int16)
