"""Volumes of an audited case as a browser shows them: on the image's grid, as small as they may be."""

from __future__ import annotations

import gzip
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import nibabel as nib
import numpy as np

from nnunet_ima.report.document import Layer, Shown

Array = np.ndarray[Any, Any]
AROUND = 10  # voxels that are kept around structures when a volume is cropped


@dataclass(frozen=True)
class Attacked:
    """A case at one noise level.

    Attributes:
        eps: noise level.
        attack: that found the noise.
        dice: under it.
        noise: (Z, Y, X), in the unit of the case.
        predicted: label map (Z, Y, X).
    """

    eps: float
    attack: str
    dice: float
    noise: Array
    predicted: Array


@dataclass(frozen=True)
class CaseVolumes:
    """A case with all that is to be seen of it, on one grid (Z, Y, X).

    Attributes:
        model: name of the model.
        case: name of the case.
        dice: without noise.
        affine: (4, 4), voxels (x, y, z) to mm towards right, anterior, superior.
        image: in raw units.
        label: true label map.
        clean: predicted label map without noise.
        fragility: smallest ε at which a voxel's prediction changes, 0: none; None: not known.
        unit: of the noise.
        levels: by rising ε.
        channel: of the image, which has several; None: it has one.
    """

    model: str
    case: str
    dice: float
    affine: Array
    image: Array
    label: Array
    clean: Array
    fragility: Array | None
    unit: str
    levels: tuple[Attacked, ...]
    channel: int | None = None

    def cropped(self) -> CaseVolumes:
        """The same around all structures, true and predicted."""
        marked = np.logical_or.reduce([self.label > 0, self.clean > 0, *(it.predicted > 0 for it in self.levels)])
        if not marked.any():
            return self
        box = tuple(
            slice(max(0, int(found.min()) - AROUND), int(found.max()) + AROUND + 1) for found in np.nonzero(marked)
        )
        shift = np.eye(4)
        shift[:3, 3] = [part.start for part in reversed(box)]
        return replace(
            self,
            affine=self.affine @ shift,
            image=self.image[box],
            label=self.label[box],
            clean=self.clean[box],
            fragility=None if self.fragility is None else self.fragility[box],
            levels=tuple(replace(it, noise=it.noise[box], predicted=it.predicted[box]) for it in self.levels),
        )

    def shown(self, note: str = "", coarse: bool = False) -> Shown:
        """As compressed NIfTI files: noise in 255 steps, label maps as bytes, images as they are or in 255 steps."""
        return Shown(
            self.model,
            self.case,
            self.dice,
            image=_quantised(self.image, self.affine) if coarse else _whole(self.image, self.affine),
            label=_nifti(self.label.astype(np.uint8), self.affine),
            clean=_nifti(self.clean.astype(np.uint8), self.affine),
            fragility=None if self.fragility is None else _nifti(self.fragility.astype(np.float32), self.affine),
            unit=self.unit,
            layers=tuple(
                Layer(
                    it.eps,
                    it.attack,
                    it.dice,
                    _quantised(it.noise, self.affine, symmetric=True),
                    _nifti(it.predicted.astype(np.uint8), self.affine),
                )
                for it in self.levels
            ),
            note=note,
        )


def affine_of(properties: Mapping[str, Any]) -> Array:
    """Affine (4, 4) of an image from what nnU-Net's reader says of it; scaled axes where it says nothing."""
    if stuff := properties.get("sitk_stuff"):
        columns = np.array(stuff["direction"], float)
        size = round(len(columns) ** 0.5)
        affine = np.eye(4)
        affine[:size, :size] = columns.reshape(size, size) * np.array(stuff["spacing"], float)
        affine[:size, 3] = stuff["origin"]
        return np.diag([-1.0, -1.0, 1.0, 1.0]) @ affine  # ITK's axes run left and posterior
    if stuff := properties.get("nibabel_stuff"):
        return np.array(stuff.get("reoriented_affine", stuff.get("original_affine")), float)
    return np.diag([*reversed([float(step) for step in properties["spacing"]]), 1.0])


def fit(found: Iterable[CaseVolumes], limit: int, most: int) -> tuple[list[Shown], str]:
    """Make cases small enough: each cropped around its structures if it has to be, then with coarser intensities.

    Args:
        found: worst first; one at a time is held in memory.
        limit: bytes that all may take in the page, base64 included.
        most: number of cases among which these bytes are shared out.

    Returns:
        What fits, and a sentence on what does not; "" if all cases are there. Each case says what was done to it.
    """
    shown: list[Shown] = []
    left_out = 0
    used = 0
    for number, case in enumerate(found):
        share = (limit - used) // max(1, most - number)
        made = case.shown()
        if size(made) > share:
            made = case.cropped().shown("Cropped around the structures.")
        if size(made) > share:
            made = case.cropped().shown("Cropped around the structures, intensities in 255 steps.", coarse=True)
        if used + size(made) > limit:
            left_out += 1
            continue
        shown.append(made)
        used += size(made)
    return shown, f"Left out, so that the page stays small: {left_out} cases." if left_out else ""


def size(shown: Shown) -> int:
    """Bytes that a case takes in a page."""
    volumes = [shown.image, shown.label, shown.clean, shown.fragility or b""]
    volumes += [volume for layer in shown.layers for volume in (layer.noise, layer.predicted)]
    return sum(map(len, volumes)) * 4 // 3


def _whole(array: Array, affine: Array) -> bytes:
    """Intensities as whole numbers where they are, else in single precision."""
    for kind in (np.uint8, np.int16):
        if array.size and np.array_equal(array, array.astype(kind)):
            return _nifti(array.astype(kind), affine)
    return _nifti(array.astype(np.float32), affine)


def _quantised(array: Array, affine: Array, symmetric: bool = False) -> bytes:
    """Intensities in 255 steps between the extremes, or around 0."""
    low, high = (float(array.min()), float(array.max())) if array.size else (0.0, 0.0)
    if symmetric:
        slope, offset = (max(-low, high) / 127) or 1.0, 0.0
        return _nifti(np.round(array / slope).astype(np.int8), affine, slope, offset)
    slope = ((high - low) / 255) or 1.0
    return _nifti(np.round((array - low) / slope).astype(np.uint8), affine, slope, low)


def _nifti(array: Array, affine: Array, slope: float = 1.0, offset: float = 0.0) -> bytes:
    """A compressed NIfTI file of a volume (Z, Y, X); equal volumes give equal bytes."""
    header: Any = nib.Nifti1Header()
    header.set_data_dtype(array.dtype)
    header.set_data_shape(array.shape[::-1])
    header.set_sform(affine, code="scanner")
    header.set_zooms(np.linalg.norm(affine[:3, :3], axis=0))
    header["scl_slope"], header["scl_inter"], header["vox_offset"] = slope, offset, 352
    header["magic"] = b"n+1"
    return gzip.compress(
        header.binaryblock + bytes(4) + array.tobytes(), mtime=0
    )  # Z, Y, X is Fortran order of x, y, z
