"""The paper's measurement: PGD on single network inputs, pooled Dice.

A 2D model is attacked on each validation slice that holds foreground, a 3D model on each whole validation volume;
every input is seen by the network in one pass, at its preprocessed size padded to what the network can take. It
measures the network, not the deployed pipeline with its sliding windows and mirrored copies.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from math import ceil
from pathlib import Path
from time import perf_counter
from typing import Any, NamedTuple

import numpy as np
import torch
from nnunetv2.paths import nnUNet_preprocessed
from nnunetv2.training.dataloading.nnunet_dataset import infer_dataset_class
from torch import Tensor
from tqdm import tqdm

from nnunet_ima.attacks.losses import bound
from nnunet_ima.attacks.pgd import pgd
from nnunet_ima.attacks.problem import Problem
from nnunet_ima.files import read_json
from nnunet_ima.inference.model import open_model
from nnunet_ima.perturbation.budget import Budget
from nnunet_ima.perturbation.half_precision import attacked_pass
from nnunet_ima.perturbation.norms import NORMS
from nnunet_ima.tasks.dice import pooled_dice
from nnunet_ima.tasks.voxelwise import Labels, mean_dice_present, overlap_counts

TRAINED = "dice_ce"  # Dice + cross-entropy, which nnU-Net trains
PADDING = -1  # stands where an input has been padded, and counts nowhere


class NetworkInput(NamedTuple):
    """What a network gets at once, and what it should say.

    Attributes:
        image: (C, *spatial).
        target: (1, *spatial).
        case: that it is a part of.
    """

    image: Tensor
    target: Tensor
    case: str


@dataclass(frozen=True)
class LoadedModel:
    """A trained model, ready to be attacked.

    Attributes:
        network: weights loaded, evaluation mode, one output.
        labels: how its targets are read; padding is ignored.
        patch_size: of its configuration; two numbers for a 2D one.
        strides: total down-sampling of the network per axis; inputs are padded to multiples of it.
        data_folder: preprocessed cases of its configuration.
        fold: fold of its training.
        device: where it lives.
    """

    network: torch.nn.Module
    labels: Labels
    patch_size: tuple[int, ...]
    strides: tuple[int, ...]
    data_folder: Path
    fold: int
    device: torch.device

    def __call__(self, x: Tensor) -> Tensor:
        """Logits of a batch, in float32."""
        return attacked_pass(self.network, x)


def load_model(
    folder: Path, fold: int = 0, checkpoint: str = "checkpoint_final.pth", device: str = "cpu"
) -> LoadedModel:
    """Open a results folder of nnU-Net; see `inference.model.open_model` for what is refused."""
    model = open_model(folder, [str(fold)], checkpoint, device)
    ignore = model.labels.ignore
    return LoadedModel(
        network=model.networks[0],
        labels=Labels(model.labels.regions, PADDING if ignore is None else ignore),
        patch_size=tuple(model.configuration.patch_size),
        strides=tuple(int(s) for s in np.prod(model.configuration.pool_op_kernel_sizes, axis=0)),
        data_folder=Path(nnUNet_preprocessed.require())
        / model.plans.dataset_name
        / model.configuration.data_identifier,
        fold=fold,
        device=model.device,
    )


def cases_of_fold(model: LoadedModel, kind: str = "val") -> list[str]:
    """Names of the cases of the model's fold that validate ("val") or that it has learned from ("train")."""
    file = model.data_folder.parent / "splits_final.json"
    splits = read_json(file)
    if model.fold >= len(splits):
        msg = f"{file} holds {len(splits)} folds, but the model is of fold {model.fold}"
        raise ValueError(msg)
    return list(splits[model.fold][kind])


def network_inputs(model: LoadedModel, cases: list[str], every: int = 1) -> list[NetworkInput]:
    """The network inputs that hold foreground.

    Args:
        model: whose configuration tells 2D from 3D.
        cases: names of preprocessed cases.
        every: keep each n-th of them only.

    Raises:
        ValueError: for region-based labels.
    """
    if model.labels.regions:
        msg = "the paper's protocol does not cover region-based labels; nnunet-ima-attack audits such models"
        raise ValueError(msg)
    data_set = infer_dataset_class(str(model.data_folder))(str(model.data_folder), cases)
    found = []
    for case in cases:
        image, target, _, _ = data_set.load_case(case)
        image, target = torch.from_numpy(np.array(image)).float(), torch.from_numpy(np.array(target)).long()
        target = target.clamp_min(0)  # -1 marks what cropping has cut away
        if len(model.patch_size) == 2:
            found += [NetworkInput(image[:, i], target[:, i], case) for i in range(image.shape[1])]
        else:
            found.append(NetworkInput(image, target, case))
    return [entry for entry in found if bool(model.labels.any_foreground(entry.target[None]))][::every]


def attack_inputs(
    model: LoadedModel,
    inputs: list[NetworkInput],
    eps: float,
    reference_elements: int,
    *,
    loss: str = TRAINED,
    norm: str = "L2",
    steps: int = 100,
    batch_size: int = 32,
    seed: int = 0,
    progress: str | None = None,
) -> list[Tensor]:
    """Return each input under its worst noise.

    Args:
        model: the model under attack.
        inputs: see `network_inputs`.
        eps: in the paper's unit: the norm on `reference_elements` elements, scaled to each input's number of elements.
        reference_elements: see `eps`.
        loss: that is climbed, name in `attacks.losses`.
        norm: name in `NORMS`.
        steps: of PGD; each has the size 4 · ε / steps.
        batch_size: inputs per pass.
        seed: of the random starts.
        progress: title of a progress bar; None: no bar.

    Raises:
        ValueError: eps is negative or not finite, or steps is below 1.
    """
    if not 0 <= eps < float("inf"):
        msg = f"eps must be a finite number of at least 0, got {eps}"
        raise ValueError(msg)
    if steps < 1:
        msg = f"steps must be at least 1, got {steps}"
        raise ValueError(msg)
    if eps == 0:
        return [entry.image for entry in inputs]
    attacked: list[Tensor] = [entry.image for entry in inputs]
    with tqdm(total=len(inputs), desc=progress, disable=progress is None, unit="input") as bar:
        for number, (indices, x, y, inside) in enumerate(_batches(model, inputs, batch_size)):
            budgets = [Budget(norm, inputs[i].image.numel(), reference_elements).effective(eps) for i in indices]
            dice = partial(mean_dice_present, labels=model.labels)
            noisy = pgd(
                Problem(model, x, y, torch.tensor(budgets).to(x), NORMS[norm], dice, free=inside),
                bound(loss, model.labels),
                steps=steps,
                generator=torch.Generator().manual_seed(seed * 100_003 + number),
            ).x
            for row, index in enumerate(indices):
                attacked[index] = _crop(noisy[row], inputs[index].image.shape[1:]).cpu()
            bar.update(len(indices))
    return attacked


def score_inputs(
    model: LoadedModel, inputs: list[NetworkInput], images: list[Tensor], batch_size: int = 32
) -> dict[str, Any]:
    """Pooled Dice, over all voxels of all inputs, and mean Dice per input.

    Returns:
        pooled_dice: mean over foreground classes; pooled_dice_per_class; sample_dice: mean over inputs of their mean
        Dice over the classes present; case_dice: by case, the mean over its inputs.
    """
    return _scored(model, inputs, images, batch_size)[0]


def _scored(
    model: LoadedModel, inputs: list[NetworkInput], images: list[Tensor], batch_size: int = 32
) -> tuple[dict[str, Any], Tensor]:
    """See `score_inputs`; also the mean Dice of each input."""
    counts, samples = [], torch.zeros(len(inputs))
    replaced = [entry._replace(image=image) for image, entry in zip(images, inputs, strict=True)]
    cases: dict[str, list[int]] = {}
    for number, entry in enumerate(inputs):
        cases.setdefault(entry.case, []).append(number)
    for chosen, x, y, _ in _batches(model, replaced, batch_size):
        with torch.no_grad():
            logits = model(x)
        counts.append(overlap_counts(logits, y, model.labels).sum(1).double().cpu())
        samples[chosen] = mean_dice_present(logits, y, model.labels).cpu()
    per_class = pooled_dice(torch.stack(counts).sum(0))
    return {
        "pooled_dice": float(per_class.nanmean()),
        "pooled_dice_per_class": [float(value) for value in per_class],
        "sample_dice": float(samples.mean()),
        "case_dice": {case: float(samples[numbers].mean()) for case, numbers in cases.items()},
    }, samples


def predict(model: LoadedModel, image: Tensor) -> Tensor:
    """Predicted label map (*spatial) of one network input (C, *spatial)."""
    target = torch.zeros(1, *image.shape[1:], dtype=torch.long)
    for _, x, _, _ in _batches(model, [NetworkInput(image, target, "")], 1):
        with torch.no_grad():
            return _crop(model(x)[0], image.shape[1:]).argmax(0).cpu()
    raise AssertionError  # one input makes one batch


def measure(
    model: LoadedModel,
    eps: list[float],
    reference_elements: int,
    *,
    every: int = 1,
    cases: str = "val",
    losses: Sequence[str] = (TRAINED,),
    **attack: Any,
) -> list[dict[str, Any]]:
    """Attack and score a model at each ε, on cases of one kind (see `cases_of_fold`); one row per ε with its seconds.

    With several losses, each is climbed by a PGD of its own, the worst of them counts for each input, and a row says in
    `pooled_dice_by_loss` what each has found alone.
    """
    inputs = network_inputs(model, cases_of_fold(model, cases), every)
    rows = []
    for value in eps:
        begin, alone, worst, lowest = perf_counter(), {}, list[Tensor](), torch.empty(0)
        for loss in losses[: 1 if value == 0 else None]:
            title = f"ε = {value:g}" + (f", {loss}" if len(losses) > 1 else "")
            images = attack_inputs(model, inputs, value, reference_elements, loss=loss, progress=title, **attack)
            score, samples = _scored(model, inputs, images)
            alone[loss] = score["pooled_dice"]
            if worst:
                images = [new if a < b else old for new, old, a, b in zip(images, worst, samples, lowest, strict=True)]
                samples = torch.minimum(samples, lowest)
            worst, lowest = images, samples
        if len(alone) > 1:
            score, _ = _scored(model, inputs, worst)
            score["pooled_dice_by_loss"] = alone
        seconds = round(perf_counter() - begin, 1)
        rows.append({"eps": value, "inputs": len(inputs), **score, "seconds": seconds})
    return rows


def _batches(
    model: LoadedModel, inputs: list[NetworkInput], batch_size: int
) -> Iterator[tuple[list[int], Tensor, Tensor, Tensor]]:
    """Group inputs of one padded size; yields indices, images, targets, and a mask of what is no padding."""
    groups: dict[tuple[int, ...], list[int]] = {}
    for index, entry in enumerate(inputs):
        size = tuple(
            ceil(max(length, patch) / stride) * stride
            for length, patch, stride in zip(entry.image.shape[1:], model.patch_size, model.strides, strict=True)
        )
        groups.setdefault(size, []).append(index)
    for size, indices in groups.items():
        for begin in range(0, len(indices), batch_size):
            chosen = indices[begin : begin + batch_size]
            x = torch.stack([_pad(inputs[i].image, size) for i in chosen])
            y = torch.stack([_pad(inputs[i].target, size, model.labels.ignore) for i in chosen])
            inside = torch.stack([_pad(torch.ones_like(inputs[i].image), size) for i in chosen])
            yield chosen, x.to(model.device), y.to(model.device), inside.to(model.device)


def _pad(tensor: Tensor, size: tuple[int, ...], value: int | None = 0) -> Tensor:
    """Pad on both sides, as nnU-Net pads small images."""
    widths: list[int] = []
    for length, wanted in zip(reversed(tensor.shape[1:]), reversed(size), strict=True):
        before = (wanted - length) // 2
        widths += [before, wanted - length - before]
    return torch.nn.functional.pad(tensor, widths, value=value)


def _crop(tensor: Tensor, shape: tuple[int, ...]) -> Tensor:
    """Undo `_pad`."""
    starts = [(have - want) // 2 for have, want in zip(tensor.shape[1:], shape, strict=True)]
    return tensor[(slice(None), *(slice(a, a + n) for a, n in zip(starts, shape, strict=True)))]
