"""A trained nnU-Net model from its results folder: any trainer, any folds, no code from the checkpoint."""

from __future__ import annotations

import contextlib
import copy
import inspect
import io
import pickle
import pydoc
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer
from nnunetv2.utilities.find_objects import recursive_find_trainer_class_by_name
from nnunetv2.utilities.label_handling.label_handling import determine_num_input_channels
from nnunetv2.utilities.plans_handling.plans_handler import ConfigurationManager, PlansManager
from torch import nn

from nnunet_ima.files import read_json
from nnunet_ima.ima.voxelwise import Labels

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


@dataclass(frozen=True)
class TrainedModel:
    """A trained model, ready to be attacked and to predict.

    Attributes:
        folder: its results folder.
        trainer: name of the class that trained it.
        configuration_name: for example "3d_fullres".
        folds: of the ensemble, "0" to "4" or "all".
        checkpoints: file of each fold.
        networks: network of each fold: evaluation mode, one output, weights frozen, on `device`.
        plans: nnU-Net's.
        configuration: nnU-Net's.
        dataset_json: nnU-Net's.
        mirror_axes: spatial axes that nnU-Net mirrors at inference; None: none.
        device: where it lives.
    """

    folder: Path
    trainer: str
    configuration_name: str
    folds: tuple[str, ...]
    checkpoints: tuple[Path, ...]
    networks: tuple[nn.Module, ...]
    plans: PlansManager
    configuration: ConfigurationManager
    dataset_json: dict[str, Any]
    mirror_axes: tuple[int, ...] | None
    device: torch.device

    @property
    def label_manager(self) -> Any:
        """nnU-Net's label manager."""
        return self.plans.get_label_manager(self.dataset_json)

    @property
    def labels(self) -> Labels:
        """How the targets that `audit.volume` makes are read."""
        return Labels(self.label_manager.has_regions, self.label_manager.ignore_label)

    @property
    def channels(self) -> int:
        """Number of image channels."""
        return len(self.dataset_json.get("channel_names") or self.dataset_json["modality"])

    def predictor(self, step_size: float = 0.5, mirroring: bool = True) -> nnUNetPredictor:
        """nnU-Net's own predictor of this model."""
        with contextlib.redirect_stdout(io.StringIO()):  # it comments on the absence of CUDA
            predictor = nnUNetPredictor(
                tile_step_size=step_size,
                use_mirroring=mirroring,
                perform_everything_on_device=self.device.type == "cuda",
                device=self.device,
                allow_tqdm=False,
            )
        # With several folds it loads one's weights after the other's into its network, which must not be one of ours.
        network = self.networks[0] if len(self.networks) == 1 else copy.deepcopy(self.networks[0])
        predictor.manual_initialization(
            network,
            self.plans,
            self.configuration,
            [network.state_dict() for network in self.networks],
            self.dataset_json,
            self.trainer,
            self.mirror_axes,
        )
        return predictor


def open_model(
    folder: Path,
    folds: Sequence[str] | None = None,
    checkpoint: str = "checkpoint_final.pth",
    device: str | torch.device = "cpu",
    trust_checkpoint: bool = False,
) -> TrainedModel:
    """Open a results folder of nnU-Net, wherever it lies and whatever it is called.

    A checkpoint's trainer need not be installed as long as it builds nnU-Net's own network; where the trainer is found,
    it builds the network.

    Args:
        folder: holds plans.json, dataset.json and fold_0, …
        folds: of the ensemble; None: all that are there.
        checkpoint: file in each fold's folder.
        device: where to put the networks.
        trust_checkpoint: let the checkpoint and the plans run code of their own while they are loaded.

    Raises:
        FileNotFoundError: a file is missing.
        ValueError: a file is damaged or would run code, the weights do not fit the plans, or the model is the second
            stage of a cascade.
    """
    missing = f"{folder} is no results folder of nnU-Net (it holds plans.json, dataset.json, fold_0)"
    plans, dataset_json = (read_json(folder / name, missing=missing) for name in ("plans.json", "dataset.json"))
    files = _checkpoint_files(folder, folds, checkpoint)
    loaded = [_load_checkpoint(file, trust_checkpoint) for file in files]
    first = loaded[0]
    manager, name, configuration = _configuration(plans, first, files[0], folder)
    if not trust_checkpoint:
        refuse_code(*_architecture(configuration, folder / "plans.json"), folder / "plans.json")
    networks = tuple(
        _network(manager, configuration, dataset_json, entry, file).to(device)
        for entry, file in zip(loaded, files, strict=True)
    )
    mirror_axes = first.get("inference_allowed_mirroring_axes")
    return TrainedModel(
        folder=folder,
        trainer=str(first["trainer_name"]),
        configuration_name=name,
        folds=tuple(file.parent.name.removeprefix("fold_") for file in files),
        checkpoints=tuple(files),
        networks=networks,
        plans=manager,
        configuration=configuration,
        dataset_json=dataset_json,
        mirror_axes=tuple(mirror_axes) if mirror_axes else None,
        device=torch.device(device),
    )


def _checkpoint_files(folder: Path, folds: Sequence[str] | None, checkpoint: str) -> list[Path]:
    present = sorted(file.parent.name.removeprefix("fold_") for file in folder.glob(f"fold_*/{checkpoint}"))
    wanted = list(dict.fromkeys(folds)) if folds else [fold for fold in present if fold != "all"] or present
    missing = [fold for fold in wanted if fold not in present]
    if missing or not wanted:
        asked = folder / f"fold_{missing[0] if missing else '*'}" / checkpoint
        others = sorted(str(file.relative_to(folder)) for file in folder.glob("fold_*/*.pth"))
        there = f"{', '.join(others)}; choose with --fold and --checkpoint" if others else "no checkpoint"
        msg = f"{asked} does not exist; {folder} holds {there}"
        raise FileNotFoundError(msg)
    return [folder / f"fold_{fold}" / checkpoint for fold in wanted]


def _load_checkpoint(file: Path, trust: bool) -> dict[str, Any]:
    try:
        with torch.serialization.safe_globals(_HARMLESS):
            loaded = torch.load(file, map_location="cpu", weights_only=not trust)
    except pickle.UnpicklingError as error:
        wanted = _foreign_names(file) or " ".join(re.findall(r"GLOBAL (\S+)", str(error))) or "in a foreign format"
        msg = (
            f"{file} would run code that is not part of PyTorch when it is loaded ({wanted}). If you trust where it "
            "comes from, add --trust-checkpoint"
        )
        raise ValueError(msg) from error
    except (RuntimeError, EOFError, OSError, KeyError, AttributeError, ImportError) as error:
        msg = f"{file} is damaged or no checkpoint of PyTorch: {str(error).splitlines()[0] if str(error) else error!r}"
        raise ValueError(msg) from error
    missing = {"network_weights", "trainer_name", "init_args"} - set(loaded if isinstance(loaded, dict) else ())
    if missing:
        msg = f"{file} is no checkpoint of nnU-Net: it lacks {', '.join(sorted(missing))}"
        raise ValueError(msg)
    return dict(loaded)


def _foreign_names(file: Path) -> str:
    with contextlib.suppress(Exception), torch.serialization.safe_globals(_HARMLESS):
        return ", ".join(torch.serialization.get_unsafe_globals_in_checkpoint(file))
    return ""


def _configuration(
    plans: Any, checkpoint: dict[str, Any], file: Path, folder: Path
) -> tuple[PlansManager, str, ConfigurationManager]:
    """Plans, and name and content of the configuration that a checkpoint was trained with."""
    try:
        manager = PlansManager(dict(plans))
        name = str(checkpoint["init_args"]["configuration"])
        configuration = manager.get_configuration(name)
    except (KeyError, ValueError, RuntimeError, TypeError, AttributeError) as error:
        msg = f"{file} does not fit {folder / 'plans.json'}: {error}"
        raise ValueError(msg) from error
    if configuration.previous_stage_name is not None:
        msg = (
            f"{folder} is the second stage of a cascade; its input holds the first stage's segmentation, which noise "
            f"would change too. Audit the first stage ({configuration.previous_stage_name}) or a single-stage model"
        )
        raise ValueError(msg)
    return manager, name, configuration


def _architecture(configuration: ConfigurationManager, file: Path) -> tuple[str, Mapping[str, Any], Sequence[str]]:
    """Name, options and names to import of the network that plans describe."""
    try:
        return (
            configuration.network_arch_class_name,
            configuration.network_arch_init_kwargs,
            configuration.network_arch_init_kwargs_req_import,
        )
    except Exception as error:  # whatever damaged plans raise
        msg = f"the network that {file} describes cannot be found: {error}"
        raise ValueError(msg) from error


def refuse_code(class_name: str, options: Mapping[str, Any], imported: Sequence[str], file: Path) -> None:
    """Refuse an architecture that names other things than parts of networks: nnU-Net calls what it names.

    Args:
        class_name: network_class_name of the architecture in plans.
        options: its arch_kwargs.
        imported: its _kw_requires_import.
        file: where it comes from, for the message.

    Raises:
        ValueError: it names something else.
    """
    try:
        named = {name: pydoc.locate(name) for name in (options[key] for key in imported) if name is not None}
        named[class_name] = pydoc.locate(class_name)
    except Exception as error:  # whatever the modules on the way raise at import
        msg = f"the network that {file} describes cannot be found: {error}"
        raise ValueError(msg) from error
    for name, found in named.items():
        # What is not found is not called; nnU-Net looks for a network that has moved in its own package.
        if found is not None and not (inspect.isclass(found) and issubclass(found, nn.Module)):
            msg = (
                f"{file} names {name}, which is no part of a network and would run when the network is built. If you "
                "trust where it comes from, add --trust-checkpoint"
            )
            raise ValueError(msg)


def _network(
    plans: PlansManager,
    configuration: ConfigurationManager,
    dataset_json: dict[str, Any],
    checkpoint: dict[str, Any],
    file: Path,
) -> nn.Module:
    trainer = checkpoint["trainer_name"]
    builder, why = _trainer_class(trainer)
    build = (builder or nnUNetTrainer).build_network_architecture
    try:
        described: tuple[Any, ...] = plans, configuration
        if "plans_manager" not in inspect.signature(build).parameters:  # trainers written for earlier versions
            described = (
                configuration.network_arch_class_name,
                configuration.network_arch_init_kwargs,
                configuration.network_arch_init_kwargs_req_import,
            )
        network: nn.Module = build(
            *described,
            determine_num_input_channels(plans, configuration, dataset_json),
            plans.get_label_manager(dataset_json).num_segmentation_heads,
            enable_deep_supervision=False,
        )
    except Exception as error:  # whatever damaged plans make of the classes that they name
        msg = f"no network can be built from plans.json and dataset.json in {file.parent.parent}: {error!r}"
        raise ValueError(msg) from error
    try:
        network.load_state_dict(checkpoint["network_weights"])
    except (RuntimeError, TypeError) as error:
        reason = str(error).splitlines()[1 if "\n" in str(error) else 0].strip()
        msg = (
            f"the weights in {file} do not fit the network of its plans ({reason[:200]})"
            if builder
            else f"{file} was trained by {trainer}, which is not installed here ({why}), and its weights do not fit "
            f"nnU-Net's own network ({reason[:200]}). Install the package that {trainer} is part of"
        )
        raise ValueError(msg) from error
    return network.eval().requires_grad_(False)


def _trainer_class(name: str) -> tuple[Any, str]:
    """Return the trainer's class, or None and the reason; looking for it imports packages that may be broken."""
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            return recursive_find_trainer_class_by_name(name), ""
    except Exception as error:  # whatever the modules on the way raise at import
        return None, str(error).split(" in nnunetv2")[0].splitlines()[0]
