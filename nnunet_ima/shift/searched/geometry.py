"""A patient who lies otherwise, or is built otherwise: small rotations, shifts and smooth deformations.

The boxes lie inside the ball of the severity: no angle, shift or displacement in them is larger than what the severity
says, whatever its direction.
"""

from __future__ import annotations

from math import prod

import torch
from torch import Tensor

from nnunet_ima.shift.general.rotation import ROTATION
from nnunet_ima.shift.general.translation import TRANSLATION
from nnunet_ima.shift.scan import Scan
from nnunet_ima.shift.searched.change import Change, Kind, between
from nnunet_ima.shift.searched.smooth import at, controls


def _free(scan: Scan) -> list[int]:
    """Axes along which a scan can move: those of more than one voxel."""
    return [axis for axis in range(3) if scan.shape[axis] > 1]


def _rotate(scan: Scan, severity: float, seed: int, device: torch.device) -> Change:
    free = _free(scan)
    axes = [0, 1, 2] if len(free) == 3 else [axis for axis in range(3) if axis not in free][: len(free) == 2]

    def act(positions: Tensor, parameters: Tensor) -> Tensor:
        turn = torch.eye(3, device=device)
        for angle, axis in zip(parameters.deg2rad(), axes, strict=True):
            turn = _turn(angle, axis) @ turn
        return positions @ turn.T

    def tell(parameters: Tensor) -> str:
        return "turned by " + ", ".join(
            f"{float(angle):+.1f}° about {'zyx'[axis]}" for angle, axis in zip(parameters, axes, strict=True)
        )

    low, high = between(-severity / max(1, len(axes)) ** 0.5, severity / max(1, len(axes)) ** 0.5, len(axes))
    return Change("rotation", low, high, torch.zeros_like(low), act, tell, geometry=True)


def _turn(angle: Tensor, axis: int) -> Tensor:
    """Matrix (3, 3) of a turn about one of the axes z, y, x."""
    first, second = (axis + 1) % 3, (axis + 2) % 3
    rows = torch.eye(3, device=angle.device).unbind()
    turned = {
        first: angle.cos() * rows[first] - angle.sin() * rows[second],
        second: angle.sin() * rows[first] + angle.cos() * rows[second],
    }
    return torch.stack([turned.get(other, rows[other]) for other in range(3)])


def _translate(scan: Scan, severity: float, seed: int, device: torch.device) -> Change:
    free = _free(scan)
    places = torch.eye(3, device=device)[free]

    def act(positions: Tensor, parameters: Tensor) -> Tensor:
        return positions - parameters @ places

    def tell(parameters: Tensor) -> str:
        return "shifted by " + ", ".join(
            f"{float(shift):+.1f} mm along {'zyx'[axis]}" for shift, axis in zip(parameters, free, strict=True)
        )

    low, high = between(-severity / max(1, len(free)) ** 0.5, severity / max(1, len(free)) ** 0.5, len(free))
    return Change("translation", low, high, torch.zeros_like(low), act, tell, geometry=True)


def _deform(scan: Scan, severity: float, seed: int, device: torch.device) -> Change:
    free, shape = _free(scan), controls(scan.shape)
    places = torch.eye(3, device=device)[free]
    extents = torch.tensor([max(1, size - 1) * edge for size, edge in zip(scan.shape, scan.spacing, strict=True)])
    extents = extents.float().to(device)

    def act(positions: Tensor, parameters: Tensor) -> Tensor:
        displacements = at(parameters.reshape(len(free), *shape), positions / extents + 0.5)
        return positions + displacements @ places

    def tell(parameters: Tensor) -> str:
        largest = parameters.reshape(len(free), -1).square().sum(0).max().sqrt()
        return f"deformed by up to {float(largest):.1f} mm"

    largest = severity / max(1, len(free)) ** 0.5
    low, high = between(-largest, largest, len(free) * prod(shape))
    return Change("deformation", low, high, torch.zeros_like(low), act, tell, geometry=True)


ROTATION_SEARCHED = Kind("rotation", ("any",), ROTATION.severities, ROTATION.unit, "angles about z, y and x", _rotate)
TRANSLATION_SEARCHED = Kind(
    "translation", ("any",), TRANSLATION.severities, TRANSLATION.unit, "shifts along z, y and x", _translate
)
DEFORMATION_SEARCHED = Kind(
    name="deformation",
    modalities=("any",),
    severities=(0.5, 1, 1.5, 2, 3),
    unit="mm, largest displacement",
    parameters="displacements of 3 × 3 × 3 points",
    making=_deform,
)
