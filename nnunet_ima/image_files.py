"""Images that other libraries write, whole or not there: some of them do not tell when the disk is full.

SimpleITK writes half a NIfTI file without a word, and reads one, with zeros for what is missing.
"""

from __future__ import annotations

import os
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from math import prod
from pathlib import Path
from typing import Any

import nibabel as nib

from nnunet_ima.files import naming, read_gzip_to_end

NIFTI = (".nii", ".nii.gz")


def check_whole(file: Path) -> None:
    """Refuse a file that ends too early; formats other than NIfTI are checked by who writes and reads them.

    Raises:
        OSError: a part of it is missing, or damaged.
    """
    try:
        if not file.stat().st_size:
            raise EOFError("it is empty")  # which gzip takes for a file of nothing
        if file.name.endswith(".gz"):
            read_gzip_to_end(file)
        elif file.name.endswith(NIFTI):
            image: Any = nib.load(file)
            least = image.dataobj.offset + prod(image.shape) * image.get_data_dtype().itemsize
            if file.stat().st_size < least:
                raise EOFError(f"it has {file.stat().st_size} of {least} bytes")
    except (OSError, EOFError, zlib.error, nib.filebasedimages.ImageFileError) as error:
        msg = f"{file} is not whole ({' '.join(str(error).split())}); is its disk full, or a quota used up?"
        raise OSError(msg) from error


@contextmanager
def written_image(file: Path, scratch: Path) -> Iterator[Path]:
    """Lend a place for an image, and for what its writer puts beside it; all of it goes to where it belongs when whole.

    Args:
        file: where it goes.
        scratch: an empty folder of the same file system.

    Raises:
        OSError: it could not be written, or not to its end.
    """
    with image_errors(file):
        yield scratch / file.name
        for part in sorted(scratch.iterdir()):
            check_whole(part)
            with part.open("rb") as stream:
                os.fsync(stream.fileno())
            part.replace(file.parent / part.name)


@contextmanager
def image_errors(file: Path) -> Iterator[None]:
    """Turn what readers and writers of images raise into an error that names the file."""
    try:
        with naming(file):
            yield
    except RuntimeError as error:  # SimpleITK's only kind of error
        msg = f"{file} cannot be written or read: {str(error).strip().splitlines()[-1]}"
        raise OSError(msg) from error
