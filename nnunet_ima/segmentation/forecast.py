"""What an audit will cost: network passes, seconds on this device and memory, from a short measurement."""

from __future__ import annotations

import resource
import sys
from collections.abc import Mapping, Sequence
from math import ceil, prod
from time import perf_counter

import numpy as np
import SimpleITK as sitk  # noqa: N813
import torch
from torch import Tensor

from nnunet_ima.attacks.presets import PRESETS
from nnunet_ima.evidence.probes import SCALES
from nnunet_ima.inference.cases import Case, check_case
from nnunet_ima.inference.model import TrainedModel
from nnunet_ima.inference.pipeline import Pipeline
from nnunet_ima.inference.volume import Volume, read_volume
from nnunet_ima.segmentation import frequency, margin, probes
from nnunet_ima.segmentation.settings import Settings
from nnunet_ima.segmentation.worst_search import PASSES_PER_STEP

# What an attack holds at once (scripts/large_volumes.py): in float32 the logits of all classes and their derivative; of
# the size of the image, clean and noisy ones, noise and gradients; and the label and the windows' weights.
LOGITS, IMAGES, BYTES_PER_VOXEL = 2, 13, 12
LOOKS = 2  # of every attack, beside its gradient steps: at the clean image first, at its last noise in the end


def forecast(pipelines: Mapping[str, Pipeline], cases: Sequence[Case], settings: Settings, check_cases: int) -> str:
    """Say what an audit will cost at most: an attack that reaches Dice 0 ends early, and a margin is often found so.

    One case of middle size is measured, and stands for all of them.

    Args:
        pipelines: inference of each model by its name.
        cases: those of the audit.
        settings: of the audit.
        check_cases: cases that are measured again to judge the evidence.

    Raises:
        ValueError: the case that is measured is faulty.
    """
    case = _middle(cases)
    lines, total = [f"Measured on {case.name}, for {len(cases)} cases:"], 0.0
    for name, pipeline in pipelines.items():
        if faults := check_case(case, pipeline.model):
            raise ValueError("; ".join(faults))
        volume = read_volume(case, pipeline.model)
        image = volume.image.to(pipeline.model.device)
        windows = pipeline.windows(image.shape[1:])
        looks, steps = _looks_and_steps(settings, len(cases), min(check_cases, len(cases)))
        forward, both, memory = _measured(pipeline, image)
        # the last pass of a step keeps its graph; the windows of the others run twice
        again = 1 - 1 / ceil(windows / pipeline.windows_per_pass)
        seconds = windows * (looks * forward + steps * (both + again * forward))
        total += seconds
        lines.append(
            f"  {name}: {windows} windows in each pass over a case, mirrored copies and folds included; at most "
            f"{_count(windows * (looks + steps * (1 + again)))} forward and {_count(windows * steps)} backward passes "
            f"of windows; {_duration(seconds)}; peak memory {memory / 2**20:.0f} MiB for windows; {case.name} needs "
            f"about {max(volumes_bytes(volume, pipeline.model) / 1e9, 0.1):.1f} GB for volumes"
        )
    lines.append(f"At most {_duration(total)} on {pipeline.model.device} with {torch.get_num_threads()} CPU threads.")
    return "\n".join(lines)


def volumes_bytes(volume: Volume, model: TrainedModel) -> int:
    """Bytes that a case needs at most for what grows with it: of an attack, or of nnU-Net's export for a score."""
    channels, *shape = volume.image.shape
    raw = [int(size) for size in volume.properties["shape_after_cropping_and_before_resampling"]]
    classes, voxels = int(model.label_manager.num_segmentation_heads), prod(shape)
    logits = 4 * classes * voxels
    attack = LOGITS * logits + (4 * IMAGES * channels + BYTES_PER_VOXEL) * voxels
    # nnU-Net's logits in half and in single precision; it resamples those in double precision to the raw grid
    export = logits * 3 // 2 if raw == shape else 3 * logits + 4 * classes * prod(raw)
    return max(attack, export)


def _middle(cases: Sequence[Case]) -> Case:
    """Case with the median number of voxels, by the images' headers."""

    def voxels(case: Case) -> int:
        reader = sitk.ImageFileReader()
        reader.SetFileName(str(case.images[0]))
        try:
            reader.ReadImageInformation()
        except RuntimeError:
            return 0  # it will be marked as failed
        return int(np.prod(reader.GetSize()))

    sizes = sorted(((voxels(case), number) for number, case in enumerate(cases)), key=lambda entry: entry[0])
    readable = [number for size, number in sizes if size] or [0]
    return cases[readable[len(readable) // 2]]


def voxels_per_pass(case: Case, pipeline: Pipeline) -> float:
    """Voxels that go through networks in a pass over a case, by the headers of its image: which cases take longest?"""
    reader = sitk.ImageFileReader()
    reader.SetFileName(str(case.images[0]))
    try:
        reader.ReadImageInformation()
    except RuntimeError:
        return 0.0  # it will be marked as failed
    size, spacing = (np.array(found[:3], float)[::-1] for found in (reader.GetSize(), reader.GetSpacing()))
    target = pipeline.model.configuration.spacing  # of the last two axes where the network is flat
    size[-len(target) :] *= spacing[-len(target) :] / target
    shape = [max(1, round(length)) for length in (*[1] * (3 - len(size)), *size)]
    return float(pipeline.windows(shape) * np.prod(pipeline.window))


def _looks_and_steps(settings: Settings, cases: int, probed: int) -> tuple[int, int]:
    """Passes over a case without and with gradients, of a whole audit of one model."""
    attacks = {entry.name: entry.with_steps(settings.steps) for attack in settings.attacks for entry in PRESETS[attack]}
    steps = sum(entry.steps for entry in attacks.values() if entry.gradients)
    looks = sum(LOOKS if entry.gradients else entry.steps * entry.passes + 1 for entry in attacks.values())
    # scores: of every attack; of every preset's worst again from the file; of white noise twice
    looks += len(attacks) + len(settings.attacks) + 2
    looks, steps = 2 + len(settings.eps) * looks, len(settings.eps) * steps  # clean, and for its temperature
    if settings.margins and settings.eps:
        runs = margin.SEARCHES * (margin.ROUNDS + 1)
        # before each run a look; in each search two looks at its beginning and two at its end; the known noise once
        looks, steps = looks + runs * (LOOKS + 1) + 4 * margin.SEARCHES + 1, steps + runs * margin.STEPS
    looks += sum(entry.guesses + entry.samples for entry in settings.smoothings)
    looks += len(settings.vafa) * (LOOKS + 1)
    steps += len(settings.vafa) * frequency.steps(settings.steps)
    if settings.shift:
        looks += len(settings.shift.disturbances) * len(settings.shift.severities) + 1
    if settings.worst_shift:
        # chance looks as often as a search has passes; both findings are predicted as files; and once without change
        looks, steps = looks + PASSES_PER_STEP * settings.worst_shift.steps + 3, steps + settings.worst_shift.steps
    looks, steps = cases * looks, cases * steps
    if settings.eps:
        first = max(attacks[entry.name].steps for entry in PRESETS[settings.attacks[0]])
        looks, steps = looks + probed * (probes.QUERIES + 8), steps + probed * (3 + len(SCALES)) * first
    return looks, steps


def _measured(pipeline: Pipeline, image: Tensor) -> tuple[float, float, int]:
    """Seconds per window of a forward pass, of a forward and backward pass, and bytes at the peak."""
    part = _part(pipeline, image)
    windows, device = pipeline.windows(part.shape[1:]), pipeline.model.device
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    seconds = []
    for gradient in (True, False, True):  # the first one warms up
        begin = perf_counter()
        x = part[None].clone().requires_grad_(gradient)
        with torch.set_grad_enabled(gradient):
            logits = pipeline(x)
        if gradient:
            torch.autograd.grad(logits.square().mean(), x)
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        seconds.append((perf_counter() - begin) / windows)
    if device.type == "cuda":
        return seconds[1], seconds[2], torch.cuda.max_memory_allocated(device)
    unit = 1 if sys.platform == "darwin" else 1024  # of ru_maxrss
    return seconds[1], seconds[2], resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def _part(pipeline: Pipeline, image: Tensor) -> Tensor:
    """As much of an image (C, *spatial) as fills one pass through the network, and no more."""
    shape = list(image.shape[1:])
    part = [min(size, limit) for size, limit in zip(pipeline.window, shape, strict=True)]
    for axis, limit in enumerate(shape):
        while part[axis] < limit and pipeline.windows(part) < pipeline.windows_per_pass:
            part[axis] = min(2 * part[axis], limit)
    return image[(slice(None), *(slice(0, size) for size in part))]


def _count(number: float) -> str:
    return f"{number:,.0f}"


def _duration(seconds: float) -> str:
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 6000 else f"{seconds / 3600:.1f} h"
