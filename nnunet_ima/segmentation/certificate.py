"""The certificate of a case: bounds of the smoothed model's Dice under any noise of a given size."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from time import perf_counter

import numpy as np
import torch

from nnunet_ima.evidence.engine import Unit
from nnunet_ima.evidence.records import Certificate
from nnunet_ima.inference.volume import Array
from nnunet_ima.segmentation.case_audit import CaseAudit
from nnunet_ima.segmentation.predictions import LabelMap
from nnunet_ima.segmentation.scores import dice_bounds, mean_dice
from nnunet_ima.segmentation.smoothing import ABSTAINED, MajorityVote, Smoothing, certified
from nnunet_ima.segmentation.target import Watch

BLOCK = 10  # copies whose votes are kept together: so many are lost at most when an audit is stopped


def certificate(case: CaseAudit, smoothing: Smoothing, watch: Watch | None = None) -> Certificate:
    """Certify a case.

    Noise is added to the preprocessed image, and each copy goes through nnU-Net's whole inference and export: a voxel
    is one of the raw image.

    Args:
        case: the case.
        smoothing: how the model is asked.
        watch: told of the progress, with the Dice of each copy's prediction.

    Raises:
        ValueError: the copies are too few to certify anything on so many voxels.
    """
    told = f"{smoothing.samples} copies after {smoothing.guesses}, share {smoothing.share:g}, alpha {smoothing.alpha:g}"
    unit = case.unit("certificate", smoothing.sigma, given=(told,))
    return case.engine.result(unit, Certificate, lambda unit: _certify(case, unit, smoothing, watch))


def _certify(case: CaseAudit, unit: Unit, smoothing: Smoothing, watch: Watch | None) -> Certificate:
    begin, model, volume = perf_counter(), case.pipeline.model, case.volume
    _check(smoothing, volume.label.size, case.case.name)

    def copies(kind: str, numbers: range) -> Iterator[LabelMap]:
        for number in numbers:
            generator = case.generator(unit.name, kind, number)
            noise = smoothing.sigma * torch.randn(volume.image.shape, generator=generator)
            predicted = case.predictions.predict(volume.image + noise, volume)
            if watch is not None:
                watch(f"{unit.name} {kind}", mean_dice(predicted, volume, model))
            yield predicted

    def guess() -> Array:
        vote = MajorityVote(volume.label.shape)
        for predicted in copies("guess", range(smoothing.guesses)):
            vote.add(predicted)
        return vote.candidates

    candidates = case.kept(f"{unit.name} {smoothing.guesses} guesses", guess)
    agreeing = np.zeros(candidates.shape, np.int16)
    for first in range(0, smoothing.samples, BLOCK):
        numbers = range(first, min(first + BLOCK, smoothing.samples))
        name = f"{unit.name} {smoothing.guesses} guesses, copies {numbers[0]} to {numbers[-1]}"
        agreeing += case.kept(name, lambda: _agreeing(copies("copy", numbers), candidates))  # noqa: B023
    found = certified(candidates, agreeing, smoothing)
    case.predictions.write_map(found, volume, unit.name)
    bounds = dice_bounds(found, found == ABSTAINED, volume, model)
    low, high = ([pair[end] for pair in bounds.values() if pair is not None] for end in (0, 1))
    return Certificate(
        model=case.name,
        case=case.case.name,
        sigma=smoothing.sigma,
        units=replace(case.units, norm="L2").describe(smoothing.radius),
        radius=smoothing.radius,
        dice=float(np.mean(low)),
        dice_at_most=float(np.mean(high)),
        dice_per_class=bounds,
        smoothed_dice=mean_dice(candidates, volume, model),
        abstained=float((found == ABSTAINED).mean()),
        seconds=round(perf_counter() - begin, 2),
    )


def _agreeing(predictions: Iterator[LabelMap], candidates: Array) -> Array:
    """Number of predictions that agree with each voxel's candidate."""
    agreeing = np.zeros(candidates.shape, np.int16)
    for predicted in predictions:
        agreeing += predicted == candidates
    return agreeing


def _check(smoothing: Smoothing, voxels: int, case: str) -> None:
    """Refuse, before any pass, copies that could certify nothing even if all of them agreed."""
    needed = smoothing.needed(voxels)
    if smoothing.samples < needed:
        msg = (
            f"{smoothing.samples} copies can certify none of the {voxels} voxels of {case}; --samples {needed} or more"
        )
        raise ValueError(msg)
