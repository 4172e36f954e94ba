"""A blurred image, by the same discrete Gaussian as `shift.spectrum.gaussian`; the variance is searched.

Along each axis the blur is a matrix of which only the gains depend on the variance: its gradient is exact, and does not
vanish where nothing is blurred, as that of a width would.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from scipy.fft import dct
from torch import Tensor

from nnunet_ima.shift.ct.slices import lacks_hounsfield
from nnunet_ima.shift.ct.soft_kernel import SOFT_KERNEL
from nnunet_ima.shift.mr.blur import BLUR
from nnunet_ima.shift.scan import Scan
from nnunet_ima.shift.searched.change import Change, Kind, between
from nnunet_ima.shift.spectrum import SIGMAS_PER_FWHM


def cosines(size: int, device: torch.device) -> Tensor:
    """The orthonormal cosine transform along an axis: frequencies by voxels."""
    return torch.from_numpy(dct(np.eye(size), axis=0, norm="ortho").astype(np.float32)).to(device)


def along(image: Tensor, axis: int, matrix: Tensor) -> Tensor:
    """Apply a matrix (M, N) along an axis of N entries."""
    applied: Tensor = torch.tensordot(image, matrix, dims=([axis], [1]))
    return applied.movedim(-1, axis)


def _blur(name: str, scan: Scan, severity: float, axes: Sequence[int], device: torch.device) -> Change:
    """`severity` is the largest full width at half maximum in mm, `axes` are those of (Z, Y, X) to be blurred."""
    transforms = {axis: cosines(scan.shape[axis], device) for axis in axes if scan.shape[axis] > 1}

    def act(channels: Tensor, parameters: Tensor) -> Tensor:
        for axis, transform in transforms.items():
            size = len(transform)
            omega = torch.arange(size, device=transform.device) * (torch.pi / size)
            gain = (parameters / scan.spacing[axis] ** 2 * (omega.cos() - 1)).exp()
            channels = along(channels, axis + 1, (transform.T * gain) @ transform)
        return channels

    def tell(parameters: Tensor) -> str:
        return f"blur of {float(parameters) ** 0.5 / SIGMAS_PER_FWHM:.1f} mm"

    low, high = between(0, (severity * SIGMAS_PER_FWHM) ** 2)
    return Change(name, low, high, torch.zeros(1), act, tell)


BLUR_SEARCHED = Kind(
    name="blur",
    modalities=("MR",),
    severities=BLUR.severities,
    unit=BLUR.unit,
    parameters="variance of the Gaussian",
    making=lambda scan, severity, _, device: _blur("blur", scan, severity, (0, 1, 2), device),
)
SOFT_KERNEL_SEARCHED = Kind(
    name="soft-kernel",
    modalities=("CT",),
    severities=SOFT_KERNEL.severities,
    unit=SOFT_KERNEL.unit,
    parameters="variance of the Gaussian",
    making=lambda scan, severity, _, device: _blur("soft-kernel", scan, severity, scan.in_plane, device),
    lacking=lacks_hounsfield,
)
