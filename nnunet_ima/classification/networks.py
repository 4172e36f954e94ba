"""Classifiers as files: what network it is, its weights, its classes, and how it was trained."""

from __future__ import annotations

import reprlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from nnunet_ima.architecture import check_architecture
from nnunet_ima.checkpoints import first_line, load_checkpoint, refuse_not_finite
from nnunet_ima.classification.head import EncoderClassifier, small_architecture
from nnunet_ima.classification.resnet import resnet18
from nnunet_ima.classification.settings import Settings
from nnunet_ima.classification.small_cnn import SmallCNN
from nnunet_ima.classification.wide_resnet import wide_resnet
from nnunet_ima.files import atomic_file
from nnunet_ima.inference.model import open_model

Description = dict[str, Any]
"""{"kind": a name in `_MADE`, "channels": of the images}; kind "encoder" has its "architecture" as in nnU-Net's plans.

Files of release 0.1 have no "channels": their images are grey.
"""

_MADE: dict[str, Callable[..., nn.Module]] = {"resnet18": resnet18, "wrn-28-4": wide_resnet, "cnn": SmallCNN}
"""Networks that their name and channels describe."""

CHANNELS = (1, 3)
"""Grey or RGB."""

LARGEST_SIZE = 4096
"""Of images: eight times a CT slice; a batch of 64 of them takes 4 GiB before the network has begun."""


@dataclass(frozen=True)
class Classifier:
    """A trained network and what is needed to use it.

    Attributes:
        network: images (B, channels, size, size) in [0, 1] to logits (B, classes); in evaluation mode.
        classes: names of the classes.
        size: height and width of the images.
        channels: 1 for grey images, 3 for RGB.
        settings: that it was trained with, as JSON values.
        epoch: epochs that it was trained for.
        file: where it was read from.
    """

    network: nn.Module
    classes: tuple[str, ...]
    size: int
    channels: int
    settings: dict[str, Any]
    epoch: int
    file: Path


def new_network(settings: Settings, classes: int, channels: int = 1) -> tuple[nn.Module, Description]:
    """Build the network of a training, with weights from PyTorch's global seed or a trained encoder, and describe it.

    Args:
        settings: of the training.
        classes: number of logits.
        channels: of the images.

    Raises:
        FileNotFoundError: there is no such encoder.
        ValueError: the encoder cannot be used.
    """
    if settings.encoder is not None:
        folder = Path(settings.encoder)
        configuration = open_model(folder, ["0"]).configuration
        architecture = {
            "network_class_name": configuration.network_arch_class_name,
            "arch_kwargs": configuration.network_arch_init_kwargs,
            "_kw_requires_import": list(configuration.network_arch_init_kwargs_req_import),
        }
        network = EncoderClassifier.from_trained(folder, channels, classes, settings.dropout, settings.frozen)
        return network, {"kind": "encoder", "architecture": architecture, "channels": channels}
    description: Description = {"kind": settings.network, "channels": channels}
    if settings.network == "small":
        architecture = small_architecture(residual=True, stride=2, stem=4)
        description = {"kind": "encoder", "architecture": architecture, "channels": channels}
    return build(description, classes, settings.dropout), description


def build(description: Description, classes: int, dropout: float = 0.0) -> nn.Module:
    """Build a network from its description, with fresh weights.

    Raises:
        ValueError: there is no such kind of network, or the encoder cannot be built.
    """
    kind, channels = description["kind"], description.get("channels", 1)
    if kind in _MADE:
        return _MADE[kind](classes=classes, channels=channels, dropout=dropout)
    if kind != "encoder":
        msg = f"a classifier's network is one of {', '.join(_MADE)} or an encoder, got {reprlib.repr(kind)}"
        raise ValueError(msg)
    return EncoderClassifier.from_architecture(description["architecture"], channels, classes, dropout)


def save_classifier(
    file: Path, network: nn.Module, description: Description, classes: tuple[str, ...], settings: Settings, epoch: int
) -> None:
    """Write a network that `load_classifier` reads."""
    save_atomically(
        file,
        {
            "nnunet_ima_classifier": 1,
            "network": description,
            "weights": {name: value.detach().cpu() for name, value in network.state_dict().items()},
            "classes": list(classes),
            "settings": settings.as_dict(),
            "epoch": epoch,
        },
    )


def load_classifier(file: Path, device: str | torch.device = "cpu") -> Classifier:
    """Read a network that a training has stored; nothing in the file is run.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is damaged, would run code, is no classifier of ours, or holds an impossible value.
    """
    stored = load_checked(file, "nnunet_ima_classifier")
    try:
        described, classes, settings = stored["network"], stored["classes"], stored["settings"]
        kind, size, epoch = described["kind"], settings["size"], int(stored["epoch"])
        channels = described.get("channels", 1)
    except (AttributeError, KeyError, TypeError, IndexError, ValueError) as error:
        msg = f"{file} is no complete classifier ({error!r}); train it again"
        raise ValueError(msg) from error
    if kind == "encoder":
        check_architecture(described.get("architecture"), file)
    _check_use(classes, size, channels, file)
    try:
        network = build(described, len(classes))
        network.load_state_dict(stored["weights"])
    except Exception as error:  # whatever a damaged description makes of the classes that it names
        msg = f"{file} is no complete classifier ({first_line(error)}); train it again"
        raise ValueError(msg) from error
    refuse_not_finite(stored["weights"], file)
    network = network.to(device).eval().requires_grad_(False)
    return Classifier(network, tuple(classes), size, channels, settings, epoch, file)


def _check_use(classes: Any, size: Any, channels: Any, file: Path) -> None:
    """Refuse names, a size and channels that no image could be classified with."""
    named = isinstance(classes, list) and all(isinstance(name, str) and name for name in classes)
    if not named or len(classes) < 2 or len(set(classes)) < len(classes):
        msg = f"{file}: classes must be at least 2 different names, got {reprlib.repr(classes)}; train it again"
        raise ValueError(msg)
    if not isinstance(size, int) or isinstance(size, bool) or not 1 <= size <= LARGEST_SIZE:
        msg = f"{file}: size must be a whole number from 1 to {LARGEST_SIZE}, got {reprlib.repr(size)}; train it again"
        raise ValueError(msg)
    if type(channels) is not int or channels not in CHANNELS:
        msg = f"{file}: channels must be 1 (grey) or 3 (RGB), got {reprlib.repr(channels)}; train it again"
        raise ValueError(msg)


def save_atomically(file: Path, content: dict[str, Any]) -> None:
    """Write tensors and plain values whole or not at all; see `files.atomic_file`."""
    with atomic_file(file) as stream:
        torch.save(content, stream)


def load_checked(file: Path, mark: str) -> dict[str, Any]:
    """Read a file of tensors and plain values that carries a mark.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is damaged, would run code, or carries no such mark.
    """
    way_out = "Train it again, or ask for a file that nnunet-ima-classify has written"
    return load_checkpoint(file, needs=(mark,), writer="nnunet-ima-classify", way_out=way_out)
