"""Ghosts along the phase-encoding axis, by pulsation or breathing: every n-th line of k-space is weaker (TorchIO).

Weakening every n-th line by a share a adds n - 1 copies of the image, each a / n as bright. The line in the middle of
k-space stays, so that the mean does.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from numpy.random import Generator

from nnunet_ima.shift.disturbance import Disturbance, Parameters
from nnunet_ima.shift.mr.signal import as_magnitude
from nnunet_ima.shift.scan import Scan
from nnunet_ima.shift.through_torchio import through_torchio, torchio

GHOSTS = (2, 3, 4)


def _draw(severity: float, scan: Scan, rng: Generator) -> Parameters:
    return {
        "ghosts": int(rng.choice(GHOSTS)),
        "brightness": severity,
        "phase_axis": int(rng.choice(scan.in_plane)),
    }


def _apply(scan: Scan, parameters: Mapping[str, Any]) -> Scan:
    ghosting = torchio().transforms.Ghosting(
        num_ghosts=parameters["ghosts"],
        axis=2 - parameters["phase_axis"],
        intensity=parameters["brightness"] * parameters["ghosts"],
        restore=None,
    )
    return scan.with_channels(as_magnitude(through_torchio(ghosting, scan.channels, scan.spacing), scan.channels))


GHOSTING = Disturbance(
    name="ghosting",
    modalities=("MR",),
    changes="intensity",
    severities=(0.05, 0.1, 0.15, 0.2, 0.25),
    unit="brightness of a ghost / brightness of the image",
    reference="calibrated: ghosts that are just seen in soft tissue (0.05), to every n-th line lost for n = 4 (0.25)",
    drawing=_draw,
    applying=_apply,
)
