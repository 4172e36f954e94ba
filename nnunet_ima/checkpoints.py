"""The one door for files of weights: nothing in them is run, damage is noticed, and what is needed is there."""

from __future__ import annotations

import contextlib
import pickle
import re
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

# nnU-Net keeps a few numbers of its log as NumPy scalars. These types hold numbers and run nothing; NumPy 1 called the
# first module by another name.
_HARMLESS: list[Any] = [
    np.dtype,
    np.ndarray,
    *(
        (function, f"numpy.{core}.multiarray.{name}")
        for core in ("core", "_core")
        for name, function in (("scalar", np.float64(0).__reduce__()[0]), ("_reconstruct", np.empty(0).__reduce__()[0]))
    ),
    *(type(np.dtype(kind)) for kind in ("f2", "f4", "f8", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "?")),
]


def load_checkpoint(
    file: Path, *, needs: Sequence[str] = (), writer: str = "nnU-Net", way_out: str = "", trust: bool = False
) -> dict[str, Any]:
    """Read a file of weights and plain values, onto the CPU.

    Args:
        file: written by `torch.save`.
        needs: entries that it must have.
        writer: program that writes such files, for the messages.
        way_out: sentence that tells what to do with a file that would run code.
        trust: let it run code while it is loaded.

    Raises:
        FileNotFoundError: there is no such file.
        OSError: it cannot be read.
        ValueError: it is damaged, would run code, or lacks an entry.
    """
    if not file.is_file():
        raise FileNotFoundError(f"{file} is missing")
    _refuse_damage(file)
    try:
        with torch.serialization.safe_globals(_HARMLESS):
            loaded = torch.load(file, map_location="cpu", weights_only=not trust)
    except Exception as error:  # whatever a damaged pickle, or the code of a trusted one, raises
        foreign = _foreign_names(file, error)
        msg = (
            f"{file} would run code that is not part of PyTorch when it is loaded ({foreign}). {way_out}".rstrip()
            if foreign
            else f"{file} is damaged or holds more than weights: {first_line(error)}"
        )
        raise ValueError(msg) from error
    missing = set(needs) - set(loaded if isinstance(loaded, dict) else ())
    if missing or not isinstance(loaded, dict):
        lacking = f"it lacks {', '.join(sorted(missing))}" if missing else f"it holds a {type(loaded).__name__}"
        msg = f"{file} was not written by {writer}: {lacking}"
        raise ValueError(msg)
    return dict(loaded)


def refuse_not_finite(weights: Mapping[str, Any], file: Path) -> None:
    """Refuse weights with which a network computes nothing.

    Args:
        weights: tensors by their name; other values are passed over.
        file: where they come from, for the message.

    Raises:
        ValueError: one of them is NaN or infinite, or no usual tensor.
    """
    for name, value in weights.items():
        if not isinstance(value, torch.Tensor):
            continue
        if value.layout != torch.strided or value.is_quantized or value.is_meta:
            msg = f"{file} holds {name!r} as a sparse, quantised or empty tensor, which no trained network has"
            raise ValueError(msg)
        if not (finite := torch.isfinite(value)).all():
            msg = (
                f"{file} holds weights that are not finite: {int((~finite).sum())} of the {value.numel()} values of "
                f"{name!r} are NaN or infinite; take another checkpoint, or train the network again"
            )
            raise ValueError(msg)


def first_line(error: BaseException) -> str:
    """Return what an error says, as one line; of PyTorch's unpickler only the reason, not its advice to trust."""
    said = str(error)
    if "WeightsUnpickler error: " in said:
        said = said.split("WeightsUnpickler error: ")[1]
    return said.strip().splitlines()[0].strip() if said.strip() else repr(error)


def _refuse_damage(file: Path) -> None:
    """Compare the content with its check sums, which PyTorch does not; files in its format before 1.6 have none."""
    with file.open("rb") as stream:
        if not zipfile.is_zipfile(stream):
            return
        try:
            with zipfile.ZipFile(stream) as archive:
                # PyTorch can be told to write none (set_crc32_options): then all are 0.
                summed = any(member.CRC for member in archive.infolist())
                damaged = archive.testzip() if summed else None
        except Exception as error:  # whatever a damaged directory of the archive raises
            msg = f"{file} is damaged: {first_line(error)}"
            raise ValueError(msg) from error
    if damaged is not None:
        msg = f"{file} is damaged: the check sum of its part {damaged!r} is wrong; copy it again"
        raise ValueError(msg)


def _foreign_names(file: Path, error: Exception) -> str:
    """What a file that was refused would have run; "" if it was refused for something else."""
    if not isinstance(error, pickle.UnpicklingError):
        return ""
    with contextlib.suppress(Exception), torch.serialization.safe_globals(_HARMLESS):
        if names := torch.serialization.get_unsafe_globals_in_checkpoint(file):  # the new format's only
            return ", ".join(names)
    return " ".join(re.findall(r"GLOBAL (\S+)", str(error)))
