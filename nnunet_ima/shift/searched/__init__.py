"""Disturbances whose worst case can be searched by gradient: few parameters each, in boxes of the usual severities.

`make_chain(scan, 3, seed=0)` makes all that can happen to a scan into one differentiable function of its parameters.
It is pure PyTorch and knows no model, so that a training could draw from it, too.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from nnunet_ima.shift.scan import Scan
from nnunet_ima.shift.searched.bias_field import BIAS_FIELD_SEARCHED
from nnunet_ima.shift.searched.blur import BLUR_SEARCHED, SOFT_KERNEL_SEARCHED
from nnunet_ima.shift.searched.chain import Chain, label_of, label_shares
from nnunet_ima.shift.searched.change import Change, Kind
from nnunet_ima.shift.searched.gamma import GAMMA_SEARCHED
from nnunet_ima.shift.searched.geometry import DEFORMATION_SEARCHED, ROTATION_SEARCHED, TRANSLATION_SEARCHED
from nnunet_ima.shift.searched.hounsfield import CUPPING_SEARCHED, HU_SCALE_SEARCHED, HU_SHIFT_SEARCHED
from nnunet_ima.shift.searched.low_frequencies import LOW_FREQUENCIES_SEARCHED
from nnunet_ima.shift.searched.noise import DOSE_SEARCHED, RICIAN_NOISE_SEARCHED

__all__ = ["SEARCHED", "Chain", "Change", "Kind", "label_of", "label_shares", "make_chain"]

# in the order in which they happen: the patient, the contrast, the coil or beam, the reconstruction, the noise
SEARCHED: dict[str, Kind] = {
    kind.name: kind
    for kind in (
        DEFORMATION_SEARCHED,
        ROTATION_SEARCHED,
        TRANSLATION_SEARCHED,
        GAMMA_SEARCHED,
        LOW_FREQUENCIES_SEARCHED,
        BIAS_FIELD_SEARCHED,
        HU_SCALE_SEARCHED,
        HU_SHIFT_SEARCHED,
        CUPPING_SEARCHED,
        BLUR_SEARCHED,
        SOFT_KERNEL_SEARCHED,
        RICIAN_NOISE_SEARCHED,
        DOSE_SEARCHED,
    )
}


def make_chain(
    scan: Scan,
    severity: int,
    seed: int,
    names: Sequence[str] | None = None,
    device: torch.device | str = "cpu",
) -> Chain:
    """Make changes of a scan, one after the other.

    Args:
        scan: what is changed.
        severity: of all boxes, from 1 to 5.
        seed: of the draws of noise that are mixed.
        names: of the changes, in their order; None: all that can happen to the scan.
        device: where it is changed.

    Raises:
        ValueError: there is no such severity or name, or a change cannot happen to the scan.
    """
    if severity not in range(1, 6):
        msg = f"severity must be a whole number from 1 to 5, got {severity!r}"
        raise ValueError(msg)
    fitting = [kind.name for kind in SEARCHED.values() if kind.happens_to(scan)]
    for name in names or ():
        if name not in fitting:
            msg = f"{name!r} cannot be searched for this {scan.modality} scan; {', '.join(fitting)} can"
            raise ValueError(msg)
    chosen = [SEARCHED[name] for name in (fitting if names is None else names)]
    place = torch.device(device)
    return Chain(tuple(kind.making(scan, kind.severities[severity - 1], seed, place) for kind in chosen), scan.spacing)
