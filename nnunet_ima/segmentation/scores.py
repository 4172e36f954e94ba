"""Scores of a segmentation in the raw space, as nnU-Net's evaluation counts: Dice, overlap, surface distance."""

from __future__ import annotations

import warnings

import numpy as np
import torch
from nnunetv2.evaluation.evaluate_predictions import compute_tp_fp_fn_tn, region_or_label_to_mask

from nnunet_ima.evidence.records import Score
from nnunet_ima.inference.model import TrainedModel
from nnunet_ima.inference.volume import Array, Volume
from nnunet_ima.tasks.dice import dice_of_counts


def score(predicted: Array, volume: Volume, model: TrainedModel) -> Score:
    """Score a segmentation against the ground truth.

    Args:
        predicted: label map (Z, Y, X).
        volume: holds the ground truth.
        model: names the classes (or regions).

    Raises:
        ValueError: the shapes differ.
    """
    label, ignore = volume.label, model.label_manager.ignore_label
    if predicted.shape != label.shape:
        msg = f"{volume.case.name}: the prediction has shape {predicted.shape}, {volume.case.label} {label.shape}"
        raise ValueError(msg)
    ignored = None if ignore is None else label == ignore
    overlap: dict[str, tuple[int, int, int]] = {}
    distances: dict[str, float | None] = {}
    for name, values in _classes(model).items():
        true, found = (region_or_label_to_mask(array, values) for array in (label, predicted))
        tp, fp, fn, _ = map(int, compute_tp_fp_fn_tn(true, found, ignored))
        overlap[name] = (tp, fp, fn)
        if ignored is not None:
            true, found = true & ~ignored, found & ~ignored
        distances[name] = _hd95(true, found, volume.properties["spacing"]) if true.any() and found.any() else None
    present = [name for name, (tp, _, fn) in overlap.items() if tp + fn]
    dice = {name: dice_of_counts(*counts) for name, counts in overlap.items()}
    return Score(
        dice=_mean([dice[name] for name in present]),  # type: ignore[arg-type]  # `check_case` refuses empty labels
        dice_per_class=dice,
        overlap=overlap,
        hd95_mm=_mean([distances[name] for name in present]),
        hd95_mm_per_class=distances,
        missed=tuple(name for name in present if overlap[name][0] + overlap[name][1] == 0),
    )


def _classes(model: TrainedModel) -> dict[str, tuple[int, ...]]:
    """Label values of each foreground class or region by name."""
    labels = {
        name: tuple(map(int, values)) if isinstance(values, list | tuple) else (int(values),)
        for name, values in model.dataset_json["labels"].items()
    }
    return {name: values for name, values in labels.items() if name != "ignore" and set(values) != {0}}


def _mean(values: list[float | None]) -> float | None:
    numbers = [value for value in values if value is not None]
    return float(np.mean(numbers)) if numbers and len(numbers) == len(values) else None


def _hd95(true: Array, found: Array, spacing: tuple[float, ...]) -> float:
    """Larger one of the two directed 95th percentiles, in mm, of masks (Z, Y, X) that are not empty."""
    from monai.metrics import compute_hausdorff_distance  # type: ignore[attr-defined]  # takes seconds to import

    # In a volume of one slice all voxels would be surface: its masks are 2D.
    axes = [axis for axis, size in enumerate(true.shape) if size > 1]
    first, second = (torch.from_numpy(mask.squeeze()[None, None].astype(np.float32)) for mask in (found, true))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # MONAI 1.6 calls what it has deprecated itself
        distance = compute_hausdorff_distance(
            first, second, include_background=True, percentile=95, spacing=[float(spacing[axis]) for axis in axes]
        )
    return float(distance)
