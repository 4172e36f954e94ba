"""A phantom: small MR-like volumes of an irregular organ with an off-centre core, and their label maps."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter

from nnunet_ima.datasets.phantom_shapes import Array, draw_blobs, draw_organ, ellipsoid, smooth_field, voxel_grid

# Signal of tissue, shell (label 1) and core (label 2) per channel, relative to tissue in the first channel: a
# T1-like channel in which both structures are brighter, and a T2-like one in which only the shell is.
CONTRASTS: tuple[tuple[float, float, float], ...] = ((1.0, 1.4, 1.8), (0.8, 1.25, 0.65))
SCALE = 400.0  # scanner units of a relative signal of 1
TEXTURE = 0.05  # standard deviation of the tissue's own variation, relative to its signal


def phantom_case(
    rng: np.random.Generator,
    shape: Sequence[int],
    spacing: Sequence[float],
    channels: int = 1,
    noise: float = 0.08,
    bias: float = 0.15,
) -> tuple[NDArray[np.float32], NDArray[np.uint8]]:
    """Draw one phantom.

    An organ of random place, size and outline (label 1) holds a core (label 2), in tissue with texture and a few
    distracting blobs, surrounded by air. A smooth multiplicative bias field and Rician noise are what an MR scanner
    adds.

    Args:
        rng: source of all randomness.
        shape: voxels per axis; 2 or 3 axes.
        spacing: voxel edge per axis, in mm; structures are shaped in mm, so that thick slices look like thick slices.
        channels: number of channels, 1 or 2; the second has another contrast and its own noise.
        noise: standard deviation of the noise of the receiver, relative to the signal of tissue.
        bias: standard deviation of the logarithm of the bias field.

    Returns:
        The image (C, *shape) and the label map (*shape).

    Raises:
        ValueError: the shape leaves no room for both structures.
    """
    size, edge = tuple(shape), np.asarray(spacing, dtype=float)
    grid = voxel_grid(size, edge)
    label = draw_organ(rng, grid, edge)
    extent = edge * size
    body = ellipsoid(grid, np.zeros(len(size)), extent * rng.uniform(0.44, 0.49, len(size))) < 1
    blobs = draw_blobs(rng, grid, extent, body & (label == 0))
    scale = SCALE * rng.uniform(0.8, 1.2)
    image = np.stack(
        [
            scale * _acquire(rng, _signal(rng, CONTRASTS[channel], label, body, blobs), edge, noise, bias)
            for channel in range(channels)
        ]
    )
    return image.astype(np.float32), label


def hide_labels(rng: np.random.Generator, label: NDArray[np.uint8], value: int, share: float = 0.25) -> None:
    """Overwrite a share of a label map, in smooth patches, with the value for "not annotated".

    Args:
        rng: source of the randomness.
        label: the label map (*shape), changed in place.
        value: the value of nnU-Net's ignore label.
        share: share of the voxels to hide.
    """
    field = gaussian_filter(rng.normal(size=label.shape), [size / 10 for size in label.shape])
    label[field > np.quantile(field, 1 - share)] = value


def _signal(
    rng: np.random.Generator,
    contrast: tuple[float, float, float],
    label: NDArray[np.uint8],
    body: NDArray[np.bool_],
    blobs: Array,
) -> Array:
    tissue, *structures = contrast
    varied = [tissue] + [tissue + (signal - tissue) * rng.uniform(0.85, 1.15) for signal in structures]
    signal = np.array(varied)[label] + tissue * blobs
    signal[~body & (label == 0)] = 0.03
    return signal


def _acquire(rng: np.random.Generator, signal: Array, edge: Array, noise: float, bias: float) -> Array:
    """Add what tissue and scanner add: texture, partial volume, bias field, Rician noise."""
    shape = signal.shape
    textured = signal * (1 + TEXTURE * smooth_field(rng, shape, edge, float(edge.min())))
    blurred = gaussian_filter(textured, 0.5)
    biased = blurred * np.exp(bias * smooth_field(rng, shape, edge, edge * shape / 3))
    real, imaginary = rng.normal(scale=noise, size=(2, *shape))
    acquired: Array = np.hypot(biased + real, imaginary)
    return acquired
