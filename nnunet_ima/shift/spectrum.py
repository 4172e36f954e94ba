"""Linear filters along axes of an image, exact at any width, and without a fold at the image's border.

The image is continued by its mirror image (discrete cosine transform): a filter by Fourier transform would let the two
ends of an axis run into each other, which shows in images that are cut out of larger ones.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from scipy.fft import dct, idct

from nnunet_ima.shift.scan import Array

SIGMAS_PER_FWHM = 1 / (8 * np.log(2)) ** 0.5  # of a Gaussian


def filtered(image: Array, axis: int, gain: Callable[[Array], Array]) -> Array:
    """Multiply the spectrum along one axis.

    Args:
        image: any shape.
        axis: of the image.
        gain: angular frequencies (N,) from 0 to below π, in radians per voxel, to factors (N,).
    """
    size = image.shape[axis]
    factors = gain(np.pi * np.arange(size) / size).astype(image.dtype)
    columns = factors.reshape([-1 if other == axis else 1 for other in range(image.ndim)])
    result: Array = idct(dct(image, axis=axis) * columns, axis=axis)
    return result


def gaussian(image: Array, fwhm: Sequence[float]) -> Array:
    """Blur by the discrete Gaussian kernel, which has the variance that was asked for below one voxel, too.

    Sampled Gaussians, such as those of SciPy and TorchIO, are narrower than asked there.

    Args:
        image: (C, Z, Y, X).
        fwhm: full width at half maximum along z, y and x, in voxels.

    Source: T. Lindeberg, Scale-space for discrete signals, IEEE TPAMI 1990.
    """
    for axis, width in enumerate(fwhm, start=1):
        if width > 0:
            image = filtered(image, axis, _transfer((width * SIGMAS_PER_FWHM) ** 2))
    return image


def _transfer(variance: float) -> Callable[[Array], Array]:
    def gain(omega: Array) -> Array:
        factors: Array = np.exp(variance * (np.cos(omega) - 1))
        return factors

    return gain
