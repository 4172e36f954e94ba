"""One image file to grey pixels or colours, to intensities in [0, 1], to the size that a classifier wants."""

from __future__ import annotations

import hashlib
import math
import os
import sys
import tempfile
import unicodedata
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

import nibabel as nib
import numpy as np
import SimpleITK as sitk  # noqa: N813
import torch
import torch.nn.functional as F
from torch import Tensor

from nnunet_ima.datasets.checks import last_line
from nnunet_ima.files import read_gzip_to_end

SUFFIXES = (".png", ".jpg", ".jpeg", ".nii", ".nii.gz", ".dcm", ".dicom", ".ima")
MAX_PIXELS = 64_000_000
"""More than any slice of a CT (512×512, some 2048×2048) or X-ray image (up to some 30 megapixels) has."""

Grey = np.ndarray[Any, np.dtype[Any]]


def is_image(file: Path) -> bool:
    """Tell by its name whether a file is an image that can be read."""
    return file.name.lower().endswith(SUFFIXES) and not file.name.startswith(".")


def is_plain(name: str) -> bool:
    """Tell whether a name can stand in a line of text: no line breaks or other control characters, all of it UTF-8."""
    return not any(unicodedata.category(character) in ("Cc", "Cs", "Zl", "Zp") for character in name)


def read_grey(file: Path) -> Grey:
    """Read a single slice as grey pixels (H, W), in the file's own number format.

    Colours become their luminance (ITU-R BT.601), rounded for integers, and transparency is ignored. For equal
    channels that is exactly the channel, so that nobody can tell from the pixels how a grey picture was saved. Rows and
    columns stay as stored; MONOCHROME1 in DICOM, where low values are bright, comes inverted.

    Args:
        file: PNG, JPEG, NIfTI or DICOM.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is damaged, or cut off, or no single slice, or has more than `MAX_PIXELS` pixels, or some that
            are not finite.
    """
    return _luminance(_channels(file))


def read_rgb(file: Path) -> Grey:
    """Read a single slice as colours (H, W, 3), in the file's own number format; a grey one gets three equal channels.

    Args:
        file: PNG, JPEG, NIfTI or DICOM.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: as `read_grey`.
    """
    pixels = _channels(file)
    return pixels if pixels.shape[-1] == 3 else np.repeat(pixels, 3, axis=-1)


def _channels(file: Path) -> Grey:
    """Read a single slice with its channels but transparency: grey (H, W, 1) or RGB (H, W, 3)."""
    if not file.is_file():
        raise FileNotFoundError(f"{file} {_absence(file)}")
    image = _read(file)
    pixels = sitk.GetArrayFromImage(image)
    channels = image.GetNumberOfComponentsPerPixel()
    if pixels.dtype.kind not in "uif" or channels not in (1, 2, 3, 4):
        msg = f"{file} has {channels} channels of type {pixels.dtype}; an image is grey, RGB or RGBA"
        raise ValueError(msg)
    slices = pixels if channels > 1 else pixels[..., None]
    found: Grey = slices.reshape(slices.shape[-3:])[..., : 1 if channels < 3 else 3]
    if not np.isfinite(found).all():
        msg = f"{file} has pixels that are not finite"
        raise ValueError(msg)
    return found


def unit_range(pixels: Grey) -> Tensor:
    """Return intensities of pixels (H, W) or (H, W, C) in [0, 1], float32 (C, H, W).

    8-bit pixels are divided by 255, whatever values occur. Other formats have no natural white (CT in HU, 16-bit PNG):
    the slice's own minimum becomes 0 and its maximum 1; a constant slice becomes 0.
    """
    values = pixels.astype(np.float64)
    if pixels.dtype == np.uint8:
        values /= 255
    else:
        low, high = values.min(), values.max()
        values = (values - low) / (high - low) if high > low else np.zeros_like(values)
    found = torch.from_numpy(values.astype(np.float32))
    return found[None] if found.dim() == 2 else found.movedim(-1, 0).contiguous()


def resize(image: Tensor, size: tuple[int, int]) -> Tensor:
    """Resize (C, H, W) or (N, C, H, W) in [0, 1] to size: bilinear, anti-aliased along an axis that shrinks."""
    if tuple(image.shape[-2:]) == size:
        return image
    batch = image if image.dim() == 4 else image[None]
    return (
        F.interpolate(batch, size=size, mode="bilinear", antialias=True).clamp(0, 1).reshape(*image.shape[:-2], *size)
    )


def pixel_digest(grey: Grey) -> str:
    """Return a digest that two images share if their grey values and shapes are equal, whatever the file format."""
    values = np.ascontiguousarray(grey, dtype=np.float64)
    return hashlib.sha256(repr(values.shape).encode() + values.tobytes()).hexdigest()


def _luminance(pixels: Grey) -> Grey:
    """Return (H, W) of (H, W, 1), grey, or (H, W, 3), RGB."""
    if pixels.shape[-1] < 3:
        return pixels[..., 0]
    red, green, blue = np.moveaxis(pixels.astype(np.float64), -1, 0)
    grey = green + 0.299 * (red - green) + 0.114 * (blue - green)  # exact where the three are equal
    luminance: Grey = (grey if pixels.dtype.kind == "f" else np.rint(grey)).astype(pixels.dtype)
    return luminance


def _absence(file: Path) -> str:
    if file.is_symlink():
        return "is a link to nowhere; repair or remove it"
    return "is no file" if file.exists() else "is missing"


def _read(file: Path) -> sitk.Image:
    reader = sitk.ImageFileReader()
    reader.SetFileName(str(file))
    with _one_sentence(file):
        reader.ReadImageInformation()
    _check_size(file, reader.GetSize())
    with _one_sentence(file):
        if file.name.lower().endswith((".nii", ".nii.gz")):
            _check_nifti(file)
        image: sitk.Image = reader.Execute()
    return image


def _check_size(file: Path, size: Sequence[int]) -> None:
    """Refuse, before any pixel is read, what its header says to be (width, height, ...) of no single slice."""
    if (depth := math.prod(size[2:])) != 1:
        msg = f"{file} holds {depth} slices; save the one to be classified as a file of its own"
        raise ValueError(msg)
    if size[0] * size[1] > MAX_PIXELS:
        msg = (
            f"{file} has {size[0]}×{size[1]} pixels; at most {MAX_PIXELS / 1e6:g} million are read, so make it smaller"
        )
        raise ValueError(msg)


@contextmanager
def _one_sentence(file: Path) -> Iterator[None]:
    """Turn what libraries raise or print about a file into a ValueError that names it."""
    try:
        with _library_messages() as messages:
            yield
    except Exception as error:  # a damaged file can raise anything
        reason = last_line(error)
        if "Unknown PixelType" in reason:
            reason = "its pixel format, such as grey with transparency, is foreign to SimpleITK; save it as plain grey"
        msg = f"{file} cannot be read: {reason}"
        raise ValueError(msg) from error
    damage = [line for line in messages if "JPEG" in line]  # the library fills the rest with grey and goes on
    if damage:
        msg = f"{file} is damaged: {damage[0]}"
        raise ValueError(msg)


def _check_nifti(file: Path) -> None:
    """Raise an error for what ITK reads as if nothing were wrong: missing ends, wrong check sums, NaN (as 0)."""
    if file.suffix.lower() == ".gz":
        read_gzip_to_end(file)
    voxels = np.asanyarray(cast(nib.Nifti1Image, nib.load(file)).dataobj)
    if voxels.dtype.kind == "f" and not np.isfinite(voxels).all():
        raise ValueError("it has pixels that are not finite")


@contextmanager
def _library_messages() -> Iterator[list[str]]:
    """Collect what C libraries print on stderr: about harmless colour profiles a lot, about cut JPEGs a line."""
    messages: list[str] = []
    if sys.stderr is not None:
        sys.stderr.flush()
    with tempfile.TemporaryFile() as sink:
        kept = os.dup(2)
        os.dup2(sink.fileno(), 2)
        try:
            yield messages
        finally:
            os.dup2(kept, 2)
            os.close(kept)
            sink.seek(0)
            messages += sink.read().decode(errors="replace").splitlines()
