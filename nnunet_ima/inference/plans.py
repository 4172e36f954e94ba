"""plans.json and dataset.json of a model, checked before nnU-Net acts on them: it calls what they name."""

from __future__ import annotations

import inspect
import math
import re
import reprlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import nnunetv2
from nnunetv2.imageio.base_reader_writer import BaseReaderWriter
from nnunetv2.preprocessing.normalization.default_normalization_schemes import ImageNormalization
from nnunetv2.preprocessing.preprocessors.default_preprocessor import DefaultPreprocessor
from nnunetv2.utilities.find_class_by_name import recursive_find_python_class
from nnunetv2.utilities.label_handling.label_handling import LabelManager
from nnunetv2.utilities.plans_handling.plans_handler import ConfigurationManager, PlansManager

from nnunet_ima.architecture import MOVED, check_architecture
from nnunet_ima.checkpoints import first_line
from nnunet_ima.files import read_json

LARGEST_AXIS = 8192
LARGEST_PATCH = 2**27
"""Voxels of a patch: one float32 activation of 32 features then takes 16 GiB. nnU-Net plans 2^25 at most."""

Fits = Callable[[Any], bool]


def read_model_json(folder: Path) -> tuple[PlansManager, dict[str, Any]]:
    """Read what a results folder says about its model.

    Returns:
        nnU-Net's plans and the content of dataset.json.

    Raises:
        FileNotFoundError: a file is missing.
        ValueError: a file is damaged, lacks an entry or holds an impossible one.
    """
    missing = f"{folder} is no results folder of nnU-Net (it holds plans.json, dataset.json, fold_0)"
    files = folder / "plans.json", folder / "dataset.json"
    plans, dataset_json = (read_json(file, missing=missing) for file in files)
    for file, content in zip(files, (plans, dataset_json), strict=True):
        if not isinstance(content, dict):
            msg = f"{file} must hold an object, got {reprlib.repr(content)}"
            raise ValueError(msg)
    _check_plans(plans, files[0])
    manager = PlansManager(plans)
    _check_dataset(manager, dataset_json, files[1])
    return manager, dataset_json


def read_configuration(
    plans: PlansManager, name: Any, channels: int, file: Path, checkpoint: Path
) -> ConfigurationManager:
    """Return the configuration that a checkpoint was trained with.

    Args:
        plans: of the model.
        name: of the configuration.
        channels: of the images.
        file: of the plans, for messages.
        checkpoint: that names the configuration.

    Raises:
        ValueError: there is no such configuration, it lacks an entry, or it holds an impossible one.
    """
    try:
        configuration = plans.get_configuration(str(name))
    except Exception as error:  # whatever damaged plans raise
        msg = f"{checkpoint} does not fit {file}: {first_line(error)}"
        raise ValueError(msg) from error
    _check_configuration(configuration.configuration, channels, file)
    architecture = configuration.configuration["architecture"]
    if (former := str(architecture.get("network_class_name"))) in MOVED:
        architecture["network_class_name"] = MOVED[former]  # nnU-Net would import all of its networks to find it
    return configuration


def refuse_foreign_network(configuration: ConfigurationManager, file: Path) -> None:
    """Refuse plans whose network would run code of their own choice.

    Raises:
        ValueError: they name something else than known parts of networks.
    """
    way_out = "If you trust where it comes from, add --trust-checkpoint"
    check_architecture(configuration.configuration["architecture"], file, way_out)


def _check_plans(plans: dict[str, Any], file: Path) -> None:
    _require(plans, "configurations", file, "an object of configurations", lambda value: isinstance(value, dict))
    _require(plans, "dataset_name", file, "the name of a folder", _is_folder_name)
    for key in ("transpose_forward", "transpose_backward"):
        _require(plans, key, file, "the axes 0, 1 and 2 in some order", _are_axes)
    _require(plans, "image_reader_writer", file, "one of nnU-Net's readers", _class_of("imageio", BaseReaderWriter))
    if "label_manager" in plans:
        fits = _class_of("utilities.label_handling", LabelManager)
        _require(plans, "label_manager", file, "one of nnU-Net's label managers", fits)


def _check_dataset(plans: PlansManager, dataset_json: dict[str, Any], file: Path) -> None:
    names = "modality" if "modality" in dataset_json and "channel_names" not in dataset_json else "channel_names"
    _require(dataset_json, names, file, "an object of names", lambda value: isinstance(value, dict) and bool(value))
    _require(dataset_json, "labels", file, "an object of labels", lambda value: isinstance(value, dict))
    # A part of the names of files that an audit writes.
    _require(dataset_json, "file_ending", file, "an ending such as .nii.gz", _is_file_ending)
    try:
        foreground = plans.get_label_manager(dataset_json).foreground_labels
    except Exception as error:  # whatever impossible labels raise
        msg = f"{file} holds impossible labels: {first_line(error)}"
        raise ValueError(msg) from error
    if not foreground:
        msg = f"{file} holds no label besides the background"
        raise ValueError(msg)


def _check_configuration(configuration: dict[str, Any], channels: int, file: Path) -> None:
    def require(key: str, expected: str, fits: Fits) -> None:
        _require(configuration, key, file, expected, fits)

    require("architecture", "an object that describes the network", lambda value: isinstance(value, dict))
    require(
        "patch_size",
        f"2 or 3 whole numbers from 1 to {LARGEST_AXIS}, of at most {LARGEST_PATCH} voxels together",
        _is_patch_size,
    )
    axes = len(configuration["patch_size"])
    require("spacing", f"{axes} numbers above 0", lambda value: len(value) == axes and all(map(_is_positive, value)))
    require("preprocessor_name", "one of nnU-Net's preprocessors", _class_of("preprocessing", DefaultPreprocessor))
    is_scheme = _class_of("preprocessing.normalization", ImageNormalization)
    require(
        "normalization_schemes",
        f"{channels} of nnU-Net's normalisations, one per channel",
        lambda value: len(value) == channels and all(map(is_scheme, value)),
    )
    require(
        "use_mask_for_norm",
        f"{channels} times true or false, one per channel",
        lambda value: len(value) == channels and all(isinstance(entry, bool) for entry in value),
    )
    for key in ("resampling_fn_data", "resampling_fn_seg", "resampling_fn_probabilities"):
        require(f"{key}_kwargs", "an object of options", lambda value: isinstance(value, dict))
        options = configuration[f"{key}_kwargs"]
        require(key, f"a resampling of nnU-Net that takes {key}_kwargs", _resampling_with(options))


def _require(content: Mapping[str, Any], key: str, file: Path, expected: str, fits: Fits) -> None:
    if key not in content:
        msg = f"{file} lacks {key}, {expected}"
        raise ValueError(msg)
    value = content[key]
    try:
        good = fits(value)
    except (TypeError, OverflowError):  # no list, no number, one beyond all floats
        good = False
    if not good:
        msg = f"{file}: {key} must be {expected}, got {reprlib.repr(value)}"
        raise ValueError(msg)


def _find(package: str, name: Any) -> Any:
    """What nnU-Net takes for a name: anything that a module of the package knows, imported there or not."""
    if not (isinstance(name, str) and name.isidentifier()):
        return None
    folder = Path(nnunetv2.__path__[0], *package.split("."))
    return recursive_find_python_class(str(folder), name, f"nnunetv2.{package}")


def _class_of(package: str, base: type) -> Fits:
    def fits(name: Any) -> bool:
        found = _find(package, name)
        return inspect.isclass(found) and issubclass(found, base) and not inspect.isabstract(found)

    return fits


def _resampling_with(options: Mapping[str, Any]) -> Fits:
    def fits(name: Any) -> bool:
        found = _find("preprocessing.resampling", name)
        if not (inspect.isfunction(found) and found.__module__.startswith("nnunetv2.preprocessing.resampling.")):
            return False
        inspect.signature(found).bind("image", "new shape", "spacing", "new spacing", **options)
        return True

    return fits


def _is_folder_name(value: Any) -> bool:
    return isinstance(value, str) and re.fullmatch(r"\w[\w.+-]*", value) is not None


def _is_file_ending(value: Any) -> bool:
    return isinstance(value, str) and re.fullmatch(r"(\.\w+)+", value) is not None


def _is_whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _are_axes(value: Any) -> bool:
    return all(map(_is_whole, value)) and sorted(value) == [0, 1, 2]


def _is_positive(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value) and value > 0


def _is_patch_size(value: Any) -> bool:
    possible = len(value) in (2, 3) and all(_is_whole(size) and 1 <= size <= LARGEST_AXIS for size in value)
    return possible and math.prod(value) <= LARGEST_PATCH
