"""The settings of a classifier's training: from a preset in a file of `plans/` and what the user changes."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Annotated, Any

from nnunet_ima.datasets.tasks import plans_folder
from nnunet_ima.files import read_json
from nnunet_ima.methods import METHODS, OF_ONE_LEVEL, Method, Run, make_method, options, parse_method
from nnunet_ima.methods.base import Noise, Steps
from nnunet_ima.perturbation.budget import Budget
from nnunet_ima.perturbation.norms import NORMS
from nnunet_ima.ranges import Choice, Range, Text, check_values

NETWORKS = ("resnet18", "small", "wrn-28-4", "cnn")
PLANS = ("covid", "natural_images")
"""Files of presets in `plans/`."""
SCHEDULES = ("constant", "one-cycle")
LOOKS = ("robust_eps", "robust_steps", "robust_images")
"""Settings that decide nothing about the weights."""
USUAL_LINF = 8 / 255
"""What is usual on images in [0, 1]."""


@dataclass(frozen=True)
class Settings:
    """What decides a training, besides data and splits. ε is the L2 norm on `reference_elements` elements.

    Attributes:
        method: for example "ima", or "adv10" with a noise level of its own.
        preset: that the settings were taken from.
        network: "resnet18" (the paper's, of CT slices), "small" (a residual encoder of 16 to 128 features, for a CPU),
            "wrn-28-4" (see `wide_resnet`) or "cnn" (see `small_cnn`).
        encoder: results folder of nnU-Net whose trained encoder is used instead; None: fresh weights.
        start_from: method whose finished training with the same settings otherwise gives the first weights, such as
            "ce"; None: fresh ones.
        frozen: keep that encoder's weights and train the linear layer only.
        dropout: on the pooled features.
        size: height and width of the images in pixels.
        epochs: passes over the training images.
        batch_size: images per optimiser step.
        learning_rate: of AdamW; the largest one with a schedule.
        weight_decay: of AdamW.
        schedule: "constant" or "one-cycle" (Smith & Topin 2018, arXiv 1708.07120) over the whole training.
        balanced: weigh classes in the loss by how rare they are.
        norm: of all noise, name in `NORMS`; with Linf, ε is the largest change of a pixel.
        reference_elements: elements, pixels × channels, of the image on which ε is quoted.
        robust_eps: noise of the validation accuracy that is shown beside the clean one.
        robust_steps: PGD steps of it.
        robust_images: validation images on which it is measured.
        snapshot_interval: epochs between two stored networks.
        seed: of weights, order and noise.
        options: the method's own settings, see `methods`.
    """

    method: str
    preset: str = "cpu"
    network: Annotated[str, Choice(NETWORKS)] = "small"
    encoder: Annotated[str | None, Text("a folder of a trained nnU-Net, or null")] = None
    frozen: Annotated[bool, Choice((True, False))] = False
    start_from: Annotated[str | None, Text("a method, or null")] = None
    dropout: Annotated[float, Range(0, 0.99, closed=True)] = 0.0
    size: Annotated[int, Range(1, 4096, closed=True, whole=True)] = 64
    epochs: Annotated[int, Range(1, 100_000, closed=True, whole=True)] = 20
    batch_size: Annotated[int, Range(1, 65_536, closed=True, whole=True)] = 32
    learning_rate: Annotated[float, Range(0, 10)] = 0.003
    weight_decay: Annotated[float, Range(0, 10, closed=True)] = 0.01
    schedule: Annotated[str, Choice(SCHEDULES)] = "constant"
    balanced: Annotated[bool, Choice((True, False))] = False
    norm: Annotated[str, Choice(NORMS)] = "L2"
    reference_elements: Annotated[int, Range(1, 1_000_000_000, closed=True, whole=True)] = 224 * 224
    robust_eps: Noise = 3.0
    robust_steps: Steps = 10
    robust_images: Annotated[int, Range(1, 1_000_000, closed=True, whole=True)] = 128
    snapshot_interval: Annotated[int, Range(1, 100_000, closed=True, whole=True)] = 4
    seed: Annotated[int, Range(0, 2**32 - 1, closed=True, whole=True)] = 0
    options: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Refuse what cannot work, naming the key."""
        check_values(type(self), {entry.name: getattr(self, entry.name) for entry in fields(self)})
        if self.start_from is not None:
            parse_method(self.start_from)
        if self.frozen and self.encoder is None:
            msg = "frozen is meant for a trained encoder; name one with --encoder"
            raise ValueError(msg)

    def budget(self, channels: int = 1) -> Budget:
        """Converts ε to the images at hand, which have so many channels."""
        return Budget(self.norm, channels * self.size * self.size, self.reference_elements)

    def make_method(self, ids: tuple[str, ...], channels: int = 1) -> Method:
        """Build the method for these training images, which have so many channels."""
        run = Run(ids, self.epochs, self.budget(channels))
        return make_method(parse_method(self.method)[0], run, self.options)

    def as_dict(self) -> dict[str, Any]:
        """Return the settings as JSON values."""
        stored: dict[str, Any] = json.loads(json.dumps(asdict(self)))
        return stored


def load_plan(preset: str = "cpu") -> dict[str, Any]:
    """Return the file of `plans/` that holds a preset.

    Raises:
        ValueError: none does.
    """
    for plan in _plans():
        if preset in plan["presets"]:
            return plan
    msg = f"unknown preset {preset!r}; known are {', '.join(preset_names())}"
    raise ValueError(msg)


def preset_names() -> tuple[str, ...]:
    """Return the names of all presets."""
    return tuple(name for plan in _plans() for name in plan["presets"])


def _plans() -> Iterator[dict[str, Any]]:
    for name in PLANS:
        yield read_json(plans_folder() / f"{name}.json", missing="the installation is damaged")


def _watched(method: str, eps: Any) -> float:
    """Noise under which a training in another norm than L2 is watched: its level, or half of the largest margin."""
    if not isinstance(eps, int | float):
        return USUAL_LINF
    return eps if method in OF_ONE_LEVEL else eps / 2


def resolve_settings(method: str, preset: str, changes: Mapping[str, Any] | None = None) -> Settings:
    """Return the settings of a training.

    Later sources win: the packaged plan's settings of the method, the preset, the preset's of the method, the number in
    the method's name ("adv10"), the user's changes. A change may name a setting of the training or of the method.

    Raises:
        ValueError: the method, the preset or a key is unknown, or a value is impossible.
    """
    name, level = parse_method(method)
    plan = load_plan(preset)
    changes = dict(changes or {})
    general = {key: value for key, value in plan["presets"][preset].items() if key not in ("audit", "methods")}
    chosen = {**general, **plan["methods"].get(name, {}), **plan["presets"][preset]["methods"].get(name, {})}
    if level is not None:
        if "eps" in changes:
            msg = f"{method} names a noise level, and so does eps={changes['eps']}; keep one of them"
            raise ValueError(msg)
        chosen["eps"] = level
    elif (norm := changes.get("norm", "L2")) in (*NORMS,) and norm != "L2" and "eps" not in changes and "eps" in chosen:
        msg = (
            f"with the norm {norm} {name} needs a noise level of its own, for example {name}0.03: the plan's are for L2"
        )
        raise ValueError(msg)
    own, known = options(name), {entry.name for entry in fields(Settings)} - {"method", "preset", "options"}
    others = {key for other in METHODS for key in options(other)}  # a comparison's changes are for several methods
    if unknown := [key for key in changes if key not in known | others]:
        msg = f"unknown setting {', '.join(unknown)}; known are {', '.join([*sorted(known), *own])}"
        raise ValueError(msg)
    chosen |= {key: value for key, value in changes.items() if key in known or key in own}
    if chosen.get("start_from") == method:
        chosen["start_from"] = None  # "start_from=ce" is meant for the others
    given = {key: chosen.get(key, default) for key, default in own.items()}
    if changes.get("norm", "L2") != "L2" and "robust_eps" not in changes:  # the plan's is for L2
        chosen["robust_eps"] = _watched(name, given.get("eps"))
    training = {key: value for key, value in chosen.items() if key in known}
    settings = Settings(method=method, preset=preset, options=given, **training)
    settings.make_method(())  # refuses impossible options now, before any image is read
    return settings
