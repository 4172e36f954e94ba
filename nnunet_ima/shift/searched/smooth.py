"""Smooth functions over a scan by few numbers, whose values never leave the range of these numbers.

They are tensor products of quadratic Bernstein polynomials, whose weights are not negative and sum to 1: limits of the
control values are limits of the function.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

DEGREE = 2


def controls(shape: Sequence[int]) -> tuple[int, int, int]:
    """Control values along z, y and x; a single one along an axis of one slice."""
    depth, height, width = (DEGREE + 1 if size > 1 else 1 for size in shape)
    return depth, height, width


def weights(share: Tensor, count: int) -> Tensor:
    """Weights (..., count) of the control values at shares (...,) of an axis; beyond its ends, those at the ends."""
    if count == 1:
        return torch.ones_like(share)[..., None]
    t = share.clamp(0, 1)
    return torch.stack(((1 - t) ** 2, 2 * t * (1 - t), t**2), -1)


def on_grid(values: Tensor, shape: Sequence[int]) -> Tensor:
    """A function (Z, Y, X) on the voxels of a scan, from control values as `controls` counts them."""
    along = [
        weights(torch.linspace(0, 1, size, device=values.device), count)
        for size, count in zip(shape, values.shape, strict=True)
    ]
    for weight in along:
        values = torch.tensordot(values, weight, dims=([0], [1]))  # the axis moves to the end: thrice, all are in order
    return values


def at(values: Tensor, shares: Tensor) -> Tensor:
    """Functions (..., K) at shares (..., 3) of the axes, from control values (K, *controls)."""
    z, y, x = (weights(shares[..., axis], count) for axis, count in enumerate(values.shape[1:]))
    planes = (z[..., None] * y[..., None, :]).flatten(-2)
    every = (planes[..., None] * x[..., None, :]).flatten(-2)
    return every @ values.flatten(1).T
