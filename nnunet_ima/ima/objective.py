"""The weights of Algorithm 1's loss."""

from __future__ import annotations


def weights(attacked: bool, beta: float) -> tuple[float, float]:
    """Weights of the mean clean loss, of samples right and wrong alike, and of the mean loss on the boundary samples.

    Args:
        attacked: whether any sample of the batch was attacked; without any, the clean loss counts alone.
        beta: weight of the boundary samples.
    """
    return (1 - beta, beta) if attacked else (1.0, 0.0)
