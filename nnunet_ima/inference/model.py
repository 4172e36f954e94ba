"""A trained nnU-Net model from its results folder: any trainer, any folds, no code from the checkpoint."""

from __future__ import annotations

import contextlib
import copy
import inspect
import io
import reprlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer
from nnunetv2.utilities.find_objects import recursive_find_trainer_class_by_name
from nnunetv2.utilities.label_handling.label_handling import determine_num_input_channels
from nnunetv2.utilities.plans_handling.plans_handler import ConfigurationManager, PlansManager
from torch import nn

from nnunet_ima.architecture import is_installed
from nnunet_ima.checkpoints import first_line, load_checkpoint, refuse_not_finite
from nnunet_ima.inference.plans import read_configuration, read_model_json, refuse_foreign_network
from nnunet_ima.tasks.voxelwise import Labels

_NEEDS = "network_weights", "trainer_name", "init_args"


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
        """How the targets that `inference.volume` makes are read."""
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
    manager, dataset_json = read_model_json(folder)
    files = _checkpoint_files(folder, folds, checkpoint)
    loaded = [_load(file, trust_checkpoint) for file in files]
    first, name = loaded[0], str(loaded[0]["init_args"].get("configuration"))
    channels = len(dataset_json.get("channel_names") or dataset_json["modality"])
    configuration = read_configuration(manager, name, channels, folder / "plans.json", files[0])
    _refuse_cascade(configuration, folder)
    if not trust_checkpoint:
        refuse_foreign_network(configuration, folder / "plans.json")
    networks = tuple(
        _network(manager, configuration, dataset_json, entry, file).to(device)
        for entry, file in zip(loaded, files, strict=True)
    )
    mirror_axes = _mirror_axes(first, len(configuration.patch_size), files[0])
    return TrainedModel(
        folder=folder,
        trainer=str(first["trainer_name"]),
        configuration_name=name,
        folds=tuple(_fold(file, folder) for file in files),
        checkpoints=tuple(files),
        networks=networks,
        plans=manager,
        configuration=configuration,
        dataset_json=dataset_json,
        mirror_axes=mirror_axes,
        device=torch.device(device),
    )


def _checkpoint_files(folder: Path, folds: Sequence[str] | None, checkpoint: str) -> list[Path]:
    present = sorted(_fold(file, folder) for file in folder.glob(f"fold_*/{checkpoint}"))
    wanted = list(dict.fromkeys(folds)) if folds else [fold for fold in present if fold != "all"] or present
    missing = [fold for fold in wanted if fold not in present]
    if missing or not wanted:
        asked = folder / f"fold_{missing[0] if missing else '*'}" / checkpoint
        others = sorted(str(file.relative_to(folder)) for file in folder.glob("fold_*/*.pth"))
        there = f"{', '.join(others)}; choose with --fold and --checkpoint" if others else "no checkpoint"
        msg = f"{asked} does not exist; {folder} holds {there}"
        raise FileNotFoundError(msg)
    return [folder / f"fold_{fold}" / checkpoint for fold in wanted]


def _fold(file: Path, folder: Path) -> str:
    """The fold of a checkpoint, which may lie deeper, as snapshots do."""
    return file.relative_to(folder).parts[0].removeprefix("fold_")


def _load(file: Path, trust: bool) -> dict[str, Any]:
    way_out = "If you trust where it comes from, add --trust-checkpoint"
    checkpoint = load_checkpoint(file, needs=_NEEDS, way_out=way_out, trust=trust)
    weights, trainer, arguments = (checkpoint[entry] for entry in _NEEDS)
    if not (isinstance(trainer, str) and trainer.isidentifier()):
        msg = f"{file}: trainer_name must be the name of a class, got {reprlib.repr(trainer)}"
        raise ValueError(msg)
    for entry, value in (("init_args", arguments), ("network_weights", weights)):
        if not isinstance(value, dict):
            msg = f"{file}: {entry} must be a dictionary, got {reprlib.repr(value)}"
            raise ValueError(msg)
    refuse_not_finite(weights, file)
    return checkpoint


def _refuse_cascade(configuration: ConfigurationManager, folder: Path) -> None:
    if configuration.previous_stage_name is not None:
        msg = (
            f"{folder} is the second stage of a cascade; its input holds the first stage's segmentation, which noise "
            f"would change too. Audit the first stage ({configuration.previous_stage_name!r}) or a single-stage model"
        )
        raise ValueError(msg)


def _mirror_axes(checkpoint: dict[str, Any], dimensions: int, file: Path) -> tuple[int, ...] | None:
    axes = checkpoint.get("inference_allowed_mirroring_axes")
    if axes is None:
        return None
    known = range(dimensions)
    if not (isinstance(axes, list | tuple) and all(axis in known for axis in axes) and len(set(axes)) == len(axes)):
        msg = f"{file}: inference_allowed_mirroring_axes must be some of {list(known)}, got {reprlib.repr(axes)}"
        raise ValueError(msg)
    return tuple(int(axis) for axis in axes) or None


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
        name = configuration.configuration["architecture"].get("network_class_name")
        reason = repr(error) if is_installed(name) else f"the network {name!r} is unknown here; install its package"
        msg = f"no network can be built from plans.json and dataset.json in {file.parent.parent}: {reason}"
        raise ValueError(msg) from error
    try:
        network.load_state_dict(checkpoint["network_weights"])
    except (RuntimeError, TypeError, AttributeError) as error:
        reason = str(error).strip().splitlines()[1 if "\n" in str(error) else 0].strip()
        msg = (
            f"the weights in {file} do not fit the network of its plans ({reason[:200]})"
            if builder
            else f"{file} was trained by {trainer}, which is not installed here ({why}), and its weights do not fit "
            f"nnU-Net's own network ({reason[:200]}). Install the package that {trainer} is part of"
        )
        raise ValueError(msg) from error
    refuse_not_finite(network.state_dict(), file)  # of the network's own, perhaps lower, precision
    return network.eval().requires_grad_(False)


def _trainer_class(name: str) -> tuple[Any, str]:
    """Return the trainer's class, or None and the reason; looking for it imports packages that may be broken."""
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            return recursive_find_trainer_class_by_name(name), ""
    except Exception as error:  # whatever the modules on the way raise at import
        return None, first_line(error).split(" in nnunetv2")[0]
