"""Where the slices of a series lie: on one regular grid, or the reason why not."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from nnunet_ima.datasets.checks import count
from nnunet_ima.datasets.dicom.headers import DicomError

SAME_DIRECTION = 1e-3  # largest difference of direction cosines, which are often written with four digits
SAME_SPACING = 1e-3  # as a share
SAME_POSITION = 1e-3  # mm
EVEN = 0.05  # largest distance of a slice from its place, as a share of the step
STRAIGHT = 0.25  # largest shift of a slice in its plane, as a share of a pixel

Vector = np.ndarray[Any, np.dtype[np.float64]]


@dataclass(frozen=True)
class Plane:
    """A slice in the patient's space (LPS, mm).

    Attributes:
        position: centre of the first pixel (3,).
        row: direction (3,) in which the columns of a row follow each other.
        column: direction (3,) in which the rows follow each other.
        spacing: distances of rows and of columns, as DICOM orders them.
        size: numbers of rows and of columns.
    """

    position: Vector
    row: Vector
    column: Vector
    spacing: tuple[float, float]
    size: tuple[int, int]


@dataclass(frozen=True)
class Grid:
    """A regular grid of voxels, as ITK wants it.

    Attributes:
        order: of the given planes, along the normal.
        origin: centre of the first voxel (3,), mm, LPS.
        spacing: of columns, rows and slices, mm.
        direction: columns are the axes' directions (3, 3).
    """

    order: tuple[int, ...]
    origin: Vector
    spacing: tuple[float, float, float]
    direction: np.ndarray[Any, np.dtype[np.float64]]


def make_plane(
    position: Sequence[float], orientation: Sequence[float], spacing: Sequence[float], size: tuple[int, int]
) -> Plane:
    """Make a plane of the values of ImagePositionPatient, ImageOrientationPatient and PixelSpacing.

    Raises:
        DicomError: the directions are no right angle of unit vectors, or a spacing is not above 0.
    """
    row, column = np.array(orientation[:3], float), np.array(orientation[3:], float)
    lengths = np.array([np.linalg.norm(row), np.linalg.norm(column)])
    if np.abs(lengths - 1).max() > SAME_DIRECTION or abs(row @ column) > SAME_DIRECTION:
        msg = "an image's ImageOrientationPatient is no right angle of unit vectors; export the series again"
        raise DicomError(msg)
    if min(spacing) <= 0:
        msg = f"an image has a PixelSpacing of {min(spacing):g} mm; export the series again"
        raise DicomError(msg)
    return Plane(np.array(position, float), row, column, (float(spacing[0]), float(spacing[1])), size)


def regular_grid(planes: Sequence[Plane]) -> Grid:
    """Find the grid on which all planes lie.

    Raises:
        DicomError: there is but one, they differ in orientation, size or spacing, some lie at the same place, the steps
            between them are uneven, or they are shifted against each other (gantry tilt).
    """
    first = planes[0]
    if len(planes) == 1:
        msg = "the series is a single slice, no volume; move it elsewhere"
        raise DicomError(msg)
    _check_alike(planes)
    row = first.row / np.linalg.norm(first.row)
    normal = np.cross(row, first.column)
    normal /= np.linalg.norm(normal)
    positions = np.array([plane.position for plane in planes])
    heights = positions @ normal
    order = np.argsort(heights, kind="stable")
    _check_steps(heights[order])
    _check_straight(positions[order], normal, min(first.spacing))
    step = float(heights[order[-1]] - heights[order[0]]) / (len(planes) - 1)
    direction = np.stack([row, np.cross(normal, row), normal], axis=1)
    spacing = (first.spacing[1], first.spacing[0], step)
    return Grid(tuple(int(index) for index in order), positions[order[0]], spacing, direction)


def _check_alike(planes: Sequence[Plane]) -> None:
    first = planes[0]
    if len(sizes := {plane.size for plane in planes}) > 1:
        shown = ", ".join(f"{columns}×{rows}" for rows, columns in sorted(sizes))
        msg = f"the images differ in size ({shown} pixels); give each size a series of its own"
        raise DicomError(msg)
    turned = sum(
        max(np.abs(plane.row - first.row).max(), np.abs(plane.column - first.column).max()) > SAME_DIRECTION
        for plane in planes
    )
    if turned:
        msg = (
            f"the images differ in orientation ({turned} of {len(planes)} from the first one), as those of a localizer "
            "do; give each orientation a series of its own"
        )
        raise DicomError(msg)
    spacings = np.array([plane.spacing for plane in planes])
    if (np.abs(spacings / spacings[0] - 1) > SAME_SPACING).any():
        low, high = (" × ".join(f"{value:g}" for value in ends) for ends in (spacings.min(0), spacings.max(0)))
        msg = f"the images differ in spacing (from {low} to {high} mm); give each spacing a series of its own"
        raise DicomError(msg)


def _check_steps(heights: Vector) -> None:
    """Refuse uneven steps of sorted positions along the normal (mm)."""
    steps = np.diff(heights)
    if same := int(np.count_nonzero(steps < SAME_POSITION)):
        place = heights[int(np.argmin(steps))]
        msg = (
            f"{count(same, 'image')} of {len(heights)} lie where another one does (such as at {place:.2f} mm along the "
            "normal): several time points, echoes or reconstructions in one series; give each a series of its own"
        )
        raise DicomError(msg)
    even = np.linspace(heights[0], heights[-1], len(heights))
    usual = float(np.median(steps))
    if np.abs(heights - even).max() > EVEN * usual:
        worst = int(np.argmax(np.abs(steps - usual)))
        msg = (
            f"the slices are not evenly spaced: from {heights[worst]:.2f} to {heights[worst + 1]:.2f} mm along the "
            f"normal the step is {steps[worst]:.2f} mm, usually {usual:.2f} mm; export the missing slices, or resample "
            "the series and give it as NIfTI"
        )
        raise DicomError(msg)


def _check_straight(positions: np.ndarray[Any, Any], normal: Vector, pixel: float) -> None:
    """Refuse slices that are shifted against each other; positions (N, 3) in their order."""
    ways = positions - positions[0]
    along = ways @ normal
    shifts = np.linalg.norm(ways - along[:, None] * normal, axis=1)
    if shifts.max() > STRAIGHT * pixel:
        worst = int(np.argmax(shifts))
        angle = np.degrees(np.arctan2(shifts[worst], along[worst]))
        msg = (
            f"the slices are shifted against each other by up to {shifts[worst]:.2f} mm in their plane: a gantry tilt, "
            f"here of {angle:.1f}°; resample the series to a straight volume (dcm2niix does), and give that as NIfTI"
        )
        raise DicomError(msg)
