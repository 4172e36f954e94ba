"""How a few cases are measured again to judge the evidence (see `evidence.verdict`), the same for every task."""

from __future__ import annotations

from collections.abc import Mapping

HUGE = 20.0  # times the largest ε, which no model stands
SCALES = (0.1, 10.0)  # of the logits, times the ordinary one


def telling_level(quality: Mapping[float, float], clean: float) -> float:
    """Return the noise level at which an attack halves the quality most nearly: there, more would still show.

    Args:
        quality: mean Dice, or number of images that are right, by noise level.
        clean: the same without noise.
    """
    return min(sorted(quality), key=lambda eps: abs(quality[eps] - clean / 2))
