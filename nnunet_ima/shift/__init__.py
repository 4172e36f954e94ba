"""Disturbances of raw images as they happen in practice: one file each, one line here, severities in physical units.

`find_disturbance("motion").draw(3, scan, rng)` draws parameters, which JSON keeps, and `.apply(scan, parameters)` makes
the disturbed scan of them, whenever it is called.
"""

from nnunet_ima.shift.ct.cupping import CUPPING
from nnunet_ima.shift.ct.dose import DOSE
from nnunet_ima.shift.ct.hu_scale import HU_SCALE
from nnunet_ima.shift.ct.hu_shift import HU_SHIFT
from nnunet_ima.shift.ct.sharp_kernel import SHARP_KERNEL
from nnunet_ima.shift.ct.soft_kernel import SOFT_KERNEL
from nnunet_ima.shift.ct.streaks import STREAKS
from nnunet_ima.shift.ct.window import WINDOW
from nnunet_ima.shift.disturbance import Disturbance, Parameters
from nnunet_ima.shift.general.field_of_view import FIELD_OF_VIEW
from nnunet_ima.shift.general.grey_levels import GREY_LEVELS
from nnunet_ima.shift.general.jpeg import JPEG
from nnunet_ima.shift.general.misoriented import MISORIENTED
from nnunet_ima.shift.general.missing_channel import MISSING_CHANNEL
from nnunet_ima.shift.general.reoriented import REORIENTED
from nnunet_ima.shift.general.rotation import ROTATION
from nnunet_ima.shift.general.slice_thickness import SLICE_THICKNESS
from nnunet_ima.shift.general.swapped_channels import SWAPPED_CHANNELS
from nnunet_ima.shift.general.translation import TRANSLATION
from nnunet_ima.shift.general.wrong_spacing import WRONG_SPACING
from nnunet_ima.shift.mr.bias_field import BIAS_FIELD
from nnunet_ima.shift.mr.blur import BLUR
from nnunet_ima.shift.mr.gamma import GAMMA
from nnunet_ima.shift.mr.ghosting import GHOSTING
from nnunet_ima.shift.mr.motion import MOTION
from nnunet_ima.shift.mr.resolution import RESOLUTION
from nnunet_ima.shift.mr.rician_noise import RICIAN_NOISE
from nnunet_ima.shift.mr.spikes import SPIKES
from nnunet_ima.shift.scan import MODALITIES, Scan

__all__ = [
    "DISTURBANCES",
    "MODALITIES",
    "Disturbance",
    "Parameters",
    "Scan",
    "disturbances_for",
    "find_disturbance",
]

DISTURBANCES: dict[str, Disturbance] = {
    disturbance.name: disturbance
    for disturbance in (
        RICIAN_NOISE,
        BIAS_FIELD,
        MOTION,
        GHOSTING,
        SPIKES,
        RESOLUTION,
        GAMMA,
        BLUR,
        DOSE,
        HU_SHIFT,
        HU_SCALE,
        CUPPING,
        STREAKS,
        SOFT_KERNEL,
        SHARP_KERNEL,
        WINDOW,
        SLICE_THICKNESS,
        ROTATION,
        TRANSLATION,
        FIELD_OF_VIEW,
        SWAPPED_CHANNELS,
        MISSING_CHANNEL,
        GREY_LEVELS,
        JPEG,
        WRONG_SPACING,
        REORIENTED,
        MISORIENTED,
    )
}


def find_disturbance(name: str) -> Disturbance:
    """A disturbance by its name.

    Raises:
        ValueError: there is none of this name.
    """
    if name not in DISTURBANCES:
        msg = f"unknown disturbance {name!r}; known are {', '.join(DISTURBANCES)}"
        raise ValueError(msg)
    return DISTURBANCES[name]


def disturbances_for(scan: Scan) -> list[Disturbance]:
    """All that can happen to a scan: to its modality, channels and slices."""
    return [disturbance for disturbance in DISTURBANCES.values() if not disturbance.refusal(scan)]
