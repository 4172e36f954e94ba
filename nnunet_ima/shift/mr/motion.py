"""Movements of the patient during the acquisition: parts of k-space see the patient elsewhere (TorchIO).

The middle of k-space is acquired at rest, so that the anatomy stays where its label is.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.random import Generator

from nnunet_ima.shift.disturbance import Disturbance, Parameters
from nnunet_ima.shift.draws import draw_direction, draw_rotation
from nnunet_ima.shift.mr.signal import as_magnitude
from nnunet_ima.shift.scan import Scan
from nnunet_ima.shift.through_torchio import through_torchio, torchio

DEGREES_PER_MM = 0.5
AT_REST = 0.1  # of k-space, around its middle
JITTER = 0.3  # of the time between two movements


def _draw(severity: float, scan: Scan, rng: Generator) -> Parameters:
    movements, phase_axis = int(severity), int(rng.choice(scan.in_plane))
    half = movements // 2
    moments = (np.arange(half) + 0.5 + rng.uniform(-JITTER, JITTER, (2, half))) / half * (1 - AT_REST) / 2
    return {
        "millimetres": [[severity * part for part in draw_direction(scan, rng)] for _ in range(movements)],
        "degrees": [draw_rotation(DEGREES_PER_MM * severity, scan, rng) for _ in range(movements)],
        "times": [*moments[0].tolist(), *(1 - moments[1, ::-1]).tolist()],
        "phase_axis": phase_axis,
    }


def _apply(scan: Scan, parameters: Mapping[str, Any]) -> Scan:
    # TorchIO encodes along its last axis, z, which is the first of an array, and turns about the frame's origin
    order = [parameters["phase_axis"], *(axis for axis in range(3) if axis != parameters["phase_axis"])]
    xyz = order[::-1]
    motion = torchio().transforms.Motion(
        degrees=np.array(parameters["degrees"])[:, xyz],
        translation=np.array(parameters["millimetres"])[:, xyz],
        times=np.array(parameters["times"]),
        image_interpolation="linear",
    )
    turned = scan.channels.transpose(0, *[axis + 1 for axis in order])
    moved = through_torchio(motion, turned, [scan.spacing[axis] for axis in order])
    back = moved.transpose(0, *[place + 1 for place in np.argsort(order)])
    return scan.with_channels(as_magnitude(back, scan.channels))


MOTION = Disturbance(
    name="motion",
    modalities=("MR",),
    changes="intensity",
    severities=(2, 4, 6, 8, 10),
    unit="movements, each by as many mm and half as many degrees",
    reference="ROOD-MRI (Boone et al. 2023): 2 … 10 movements of up to 2 … 10 mm and 1 … 5 degrees; Shaw et al. 2019",
    drawing=_draw,
    applying=_apply,
)
