"""Which parts of networks a file may name: nnU-Net imports and calls whatever is named there."""

from __future__ import annotations

import pydoc
import re
import reprlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import nn
from torch.nn.modules import activation, batchnorm, conv, dropout, instancenorm, normalization

_ARCHITECTURES = "dynamic_network_architectures.architectures"
_SIZES = tuple(f"{version}{size}" for version in ("", "V2", "V3") for size in "XSBML")

NETWORKS = frozenset(
    (
        *(f"{_ARCHITECTURES}.unet.{name}" for name in ("PlainConvUNet", "ResidualEncoderUNet", "ResidualUNet")),
        *(f"{_ARCHITECTURES}.primus.Primus{size}" for size in ("", "V2", "V3", *_SIZES)),
    )
)
"""Networks that segment, where they are now."""

MOVED = {f"{_ARCHITECTURES}.residual_unet.ResidualEncoderUNet": f"{_ARCHITECTURES}.unet.ResidualEncoderUNet"}
"""Networks under their former names, which nnU-Net gives them in plans of its first versions."""

PARTS = frozenset(
    (
        *(
            f"{place}.{name}"
            for module in (activation, batchnorm, conv, dropout, instancenorm, normalization)
            for name, part in vars(module).items()
            if isinstance(part, type) and issubclass(part, nn.Module) and part.__module__ == module.__name__
            if not name.startswith("_")
            for place in ("torch.nn", "torch.nn.modules", module.__name__)
        ),
        *(f"dynamic_network_architectures.building_blocks.residual.{name}" for name in ("BasicBlockD", "BottleneckD")),
    )
)
"""PyTorch's convolutions, normalisations, dropouts and nonlinearities in all their spellings, and residual blocks."""

_ENTRIES = ("network_class_name", "arch_kwargs", "_kw_requires_import")


def check_architecture(architecture: Any, file: Path, way_out: str = "") -> None:
    """Refuse an architecture that names anything but known networks and parts; nothing is imported to find out.

    Args:
        architecture: of a configuration in nnU-Net's plans: network_class_name, arch_kwargs, _kw_requires_import.
        file: where it comes from, for the message.
        way_out: sentence that tells what to do about a name that is not known.

    Raises:
        ValueError: it names something else, or is no architecture.
    """
    missing = (
        [entry for entry in _ENTRIES if entry not in architecture] if isinstance(architecture, Mapping) else _ENTRIES
    )
    if missing:
        msg = f"{file} describes no network: its architecture lacks {', '.join(missing)}"
        raise ValueError(msg)
    network, options, imported = (architecture[entry] for entry in _ENTRIES)
    if not isinstance(options, Mapping):
        msg = f"{file}: arch_kwargs must be an object, got {reprlib.repr(options)}"
        raise ValueError(msg)
    if not isinstance(imported, list | tuple) or not all(isinstance(key, str) and key in options for key in imported):
        msg = f"{file}: _kw_requires_import must list keys of arch_kwargs, got {reprlib.repr(imported)}"
        raise ValueError(msg)
    if not (isinstance(network, str) and (network in NETWORKS or network in MOVED)):
        known = "PlainConvUNet, ResidualEncoderUNet, ResidualUNet and the Primus networks"
        msg = f"{file} names {_shown(network)}, an unknown network (known are {known}). {way_out}".rstrip()
        raise ValueError(msg)
    for part in (options[key] for key in imported):
        if part is not None and not (isinstance(part, str) and part in PARTS):
            msg = (
                f"{file} names {_shown(part)}, which is no part of a network that is known here and would run when "
                f"the network is built. {way_out}"
            ).rstrip()
            raise ValueError(msg)


def is_installed(network: Any) -> bool:
    """Whether a network that a trusted file names can be found; its package is imported."""
    try:
        return str(network) in MOVED or pydoc.locate(str(network)) is not None
    except pydoc.ErrorDuringImport:
        return True  # found, and broken


def _shown(name: Any) -> str:
    """A name as it stands, anything else so that it stays on its line."""
    return name if isinstance(name, str) and re.fullmatch(r"[\w.]{1,200}", name) else reprlib.repr(name)
