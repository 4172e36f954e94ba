"""Scores of a segmentation in the raw space, as nnU-Net's evaluation counts: overlap, surfaces, volumes."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from nnunetv2.evaluation.evaluate_predictions import compute_tp_fp_fn_tn, region_or_label_to_mask

from nnunet_ima.evidence.records import Confidence, Score
from nnunet_ima.inference.model import TrainedModel
from nnunet_ima.inference.volume import Array, Volume
from nnunet_ima.tasks.dice import dice_of_counts

Overlap = tuple[int, int, int]
"""Voxels: true positive, false positive, false negative."""


def score(
    predicted: Array, volume: Volume, model: TrainedModel, tolerance: float, confidence: Confidence | None = None
) -> Score:
    """Score a segmentation against the ground truth.

    Args:
        predicted: label map (Z, Y, X).
        volume: holds the ground truth.
        model: names the classes (or regions).
        tolerance: distance in mm up to which surfaces agree.
        confidence: of the model, which is told with the score.

    Raises:
        ValueError: the shapes differ.
    """
    overlap: dict[str, Overlap] = {}
    surfaces: dict[str, _Surfaces] = {}
    for name, true, found, ignored in _masks(predicted, volume, model):
        overlap[name] = _overlap(true, found, ignored)
        if ignored is not None:
            true, found = true & ~ignored, found & ~ignored
        surfaces[name] = _surfaces(true, found, volume.properties["spacing"], tolerance)
    present = _present(overlap)
    volume_error = {name: (fp - fn) / (tp + fn) if tp + fn else None for name, (tp, fp, fn) in overlap.items()}
    return Score(
        dice=_mean_dice(overlap),
        dice_per_class={name: dice_of_counts(*counts) for name, counts in overlap.items()},
        overlap=overlap,
        hd95_mm=_mean([surfaces[name].hd95 for name in present]),
        hd95_mm_per_class={name: it.hd95 for name, it in surfaces.items()},
        nsd=_mean([surfaces[name].nsd for name in present]),
        nsd_per_class={name: it.nsd for name, it in surfaces.items()},
        volume_error=_mean([abs(error) for error in volume_error.values() if error is not None]),
        volume_error_per_class=volume_error,
        missed=tuple(name for name in present if overlap[name][0] + overlap[name][1] == 0),
        confidence=confidence,
    )


def mean_dice(predicted: Array, volume: Volume, model: TrainedModel) -> float:
    """Dice alone of a segmentation, as `score` finds it, without the cost of its surfaces.

    Raises:
        ValueError: the shapes differ.
    """
    masks = _masks(predicted, volume, model)
    return _mean_dice({name: _overlap(true, found, ignored) for name, true, found, ignored in masks})


def dice_bounds(
    found: Array, abstained: Array, volume: Volume, model: TrainedModel
) -> dict[str, tuple[float, float] | None]:
    """Bounds of the Dice of each class where some voxels may be anything: all of them wrong, and all of them right.

    Args:
        found: label map (Z, Y, X).
        abstained: where it is open (Z, Y, X); `found` holds no class's label there.
        volume: holds the ground truth.
        model: names the classes (or regions).

    Returns:
        By name; None for a class that the label lacks.
    """
    bounds: dict[str, tuple[float, float] | None] = {}
    for name, true, predicted, ignored in _masks(found, volume, model):
        tp, fp, fn = _overlap(true, predicted, ignored)
        inside, outside, _ = _overlap(true, abstained, ignored)  # open voxels of the class, and of other ones
        low, high = dice_of_counts(tp, fp + outside, fn), dice_of_counts(tp + inside, fp, fn - inside)
        bounds[name] = (low, high) if tp + fn and low is not None and high is not None else None
    return bounds


def _masks(predicted: Array, volume: Volume, model: TrainedModel) -> Iterator[tuple[str, Array, Array, Array | None]]:
    """Name, true mask, predicted mask and what is ignored (Z, Y, X), of each class or region."""
    label, ignore = volume.label, model.label_manager.ignore_label
    if predicted.shape != label.shape:
        msg = f"{volume.case.name}: the prediction has shape {predicted.shape}, {volume.case.label} {label.shape}"
        raise ValueError(msg)
    ignored = None if ignore is None else label == ignore
    for name, values in _classes(model).items():
        yield name, region_or_label_to_mask(label, values), region_or_label_to_mask(predicted, values), ignored


def _overlap(true: Array, found: Array, ignored: Array | None) -> Overlap:
    tp, fp, fn, _ = map(int, compute_tp_fp_fn_tn(true, found, ignored))
    return tp, fp, fn


def _present(overlap: dict[str, Overlap]) -> list[str]:
    return [name for name, (tp, _, fn) in overlap.items() if tp + fn]


def _mean_dice(overlap: dict[str, Overlap]) -> float:
    found = [dice_of_counts(*overlap[name]) for name in _present(overlap)]
    return _mean(found)  # type: ignore[return-value]  # `check_case` refuses empty labels


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


@dataclass(frozen=True)
class _Surfaces:
    """How two surfaces agree: HD95 in mm, None if one is missing; NSD, 0 if one is missing and None if both are."""

    hd95: float | None
    nsd: float | None


def _surfaces(true: Array, found: Array, spacing: tuple[float, ...], tolerance: float) -> _Surfaces:
    """Compare the surfaces of two masks (Z, Y, X): of their surface voxels, as MONAI finds them."""
    if not (true.any() and found.any()):
        return _Surfaces(None, 0.0 if true.any() or found.any() else None)
    from monai.metrics.hausdorff_distance import compute_hausdorff_distance  # takes seconds to import
    from monai.metrics.surface_dice import compute_surface_dice

    # In a volume of one slice all voxels would be surface: its masks are 2D.
    axes = [axis for axis, size in enumerate(true.shape) if size > 1]
    first, second = (torch.from_numpy(mask.squeeze()[None, None].astype(np.float32)) for mask in (found, true))
    steps = [float(spacing[axis]) for axis in axes]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # MONAI 1.6 calls what it has deprecated itself
        hd95 = compute_hausdorff_distance(first, second, include_background=True, percentile=95, spacing=steps)
        nsd = compute_surface_dice(first, second, [tolerance], include_background=True, spacing=steps)
    return _Surfaces(float(hd95), float(nsd))
