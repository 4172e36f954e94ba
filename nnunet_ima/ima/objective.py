"""Algorithm 1: the loss of one batch."""

from __future__ import annotations

from torch import Tensor


def weights(attacked: bool, beta: float) -> tuple[float, float]:
    """Weights of the mean clean loss and of the mean loss on the boundary samples.

    Args:
        attacked: whether any sample of the batch was attacked.
        beta: weight of the boundary samples.
    """
    return (1 - beta, beta) if attacked else (1.0, 0.0)


def objective(clean: Tensor, boundary: Tensor, beta: float) -> Tensor:
    """L = (1 - β) · mean clean loss + β · mean loss on the boundary samples.

    Args:
        clean: losses (B,) of all clean samples, those right and those wrong alike.
        boundary: losses (A,) of the boundary samples of those that were attacked; may be empty.
        beta: weight of the boundary samples.
    """
    clean_weight, boundary_weight = weights(len(boundary) > 0, beta)
    loss = clean_weight * clean.mean()
    return loss + boundary_weight * boundary.mean() if len(boundary) else loss
