"""Begin a training from a finished one of the same data set, segmentation heads included."""

from __future__ import annotations

from pathlib import Path

from nnunetv2.paths import nnUNet_results
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer
from torch import nn
from torch._dynamo import OptimizedModule
from torch.nn.parallel import DistributedDataParallel

from nnunet_ima.checkpoints import load_checkpoint, refuse_not_finite

_WAY_OUT = (
    "A training needs the weights alone; if you trust where the file comes from, write them into another one: "
    'torch.save({"network_weights": torch.load(FILE, weights_only=False)["network_weights"]}, OTHER)'
)


def resolve_start(start_from: str, trainer: nnUNetTrainer) -> Path:
    """Return the checkpoint file that `start_from` names.

    Args:
        start_from: name of a results folder of the trainer's data set ("nnUNetTrainer__nnUNetPlans__2d"), a path
            to a results folder or to one of its folds, or a checkpoint file.
        trainer: the training that is about to begin; its fold is the fold that is looked up.

    Raises:
        FileNotFoundError: nothing is there; the message names the places that were tried.
    """
    candidates = [Path(start_from)]
    if nnUNet_results.is_set():
        candidates.append(Path(nnUNet_results.require()) / trainer.plans_manager.dataset_name / start_from)
    tried = []
    for place in candidates:
        for file in (place, place / "checkpoint_final.pth", place / f"fold_{trainer.fold}" / "checkpoint_final.pth"):
            if file.is_file():
                return file
            tried.append(str(file))
    msg = (
        f'"schedule": start_from {start_from!r} names no finished training; tried {", ".join(tried)}. '
        "Train it first, or set start_from to null to train from scratch."
    )
    raise FileNotFoundError(msg)


def load_weights(trainer: nnUNetTrainer, checkpoint_file: Path) -> None:
    """Copy all weights of a checkpoint into the trainer's network.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is no checkpoint, is damaged or would run code, its weights are not finite, or its network
            differs from the trainer's.
    """
    checkpoint = load_checkpoint(checkpoint_file, needs=("network_weights",), way_out=_WAY_OUT)
    weights = checkpoint["network_weights"]
    try:
        weights = {key.removeprefix("module."): value for key, value in weights.items()}
        refuse_not_finite(weights, checkpoint_file)
        bare_network(trainer.network).load_state_dict(weights)
    except (RuntimeError, AttributeError) as error:
        msg = (
            f"the network of {checkpoint_file} differs from the one of configuration "
            f"{trainer.configuration_name}; start from a training of the same configuration. {error}"
        )
        raise ValueError(msg) from error


def bare_network(network: nn.Module) -> nn.Module:
    """Return the module inside the wrappers of DDP and torch.compile."""
    if isinstance(network, DistributedDataParallel):
        network = network.module
    return network._orig_mod if isinstance(network, OptimizedModule) else network
