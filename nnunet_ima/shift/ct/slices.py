"""CT scans slice by slice, in Hounsfield units, and where the body is in them."""

from __future__ import annotations

import numpy as np
from scipy.ndimage import binary_fill_holes

from nnunet_ima.shift.scan import Array, Scan

OUTSIDE = -500  # HU; air and clothes are below


def lacks_hounsfield(scan: Scan) -> str:
    """Why it cannot happen; "" if it can: units that are shifted, or grey values, would make severities wrong."""
    lowest = float(scan.channels.min())
    return "" if lowest < 0 else f"no voxel is below {lowest:g}, so that values cannot be Hounsfield units"


def slices_first(scan: Scan) -> Array:
    """A view (C, slices, height, width) of the image, whatever axis its slices lie across."""
    return np.moveaxis(scan.channels, scan.slice_axis + 1, 1)


def as_scan(slices: Array, scan: Scan) -> Scan:
    """The way back of `slices_first`."""
    return scan.with_channels(np.moveaxis(slices, 1, scan.slice_axis + 1))


def pixel_edges(scan: Scan) -> tuple[float, float]:
    """Distance of pixels along height and width of a slice, in mm."""
    height, width = scan.in_plane
    return scan.spacing[height], scan.spacing[width]


def find_body(hounsfield: Array) -> Array:
    """Mask of the body in a slice (height, width), lungs and bowel gas included; where no body is, nothing."""
    body: Array = binary_fill_holes(hounsfield > OUTSIDE)
    return body
