"""What one step of an audit's attack costs, beside the bare network on the same windows.

Four situations: a volume of one window; a whole case with as many windows per pass as the device takes; a whole case
window by window, where the exact gradient owes every window a second forward pass; and a whole case of which one slice
may change, as under the attack `one-slice`, beside the bare network on all of it. No mirrored copies.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import Any

import torch
from live_bytes import LiveBytes
from torch import Tensor

from nnunet_ima.attacks.losses import bound
from nnunet_ima.attacks.pgd import pgd
from nnunet_ima.attacks.problem import Problem
from nnunet_ima.inference.cases import dataset_cases
from nnunet_ima.inference.model import open_model
from nnunet_ima.inference.pipeline import Pipeline
from nnunet_ima.inference.volume import read_volume
from nnunet_ima.perturbation.norms import NORMS
from nnunet_ima.tasks.voxelwise import mean_dice_present

STEPS, REPETITIONS = 5, 7


def measure_attack(checkpoint: Path, device: str) -> dict[str, Any]:
    """Measure on the first validation case of a checkpoint's fold.

    Returns:
        clean_prediction: seconds of nnU-Net's own prediction of the case.
        situations: name to windows, seconds of a step, its ratio to the bare network's forward pass and input gradient
            (median of pairs), and peak bytes.
    """
    fold = checkpoint.parent.name.removeprefix("fold_")
    model = open_model(checkpoint.parent.parent, [fold], checkpoint.name, device)
    volume = read_volume(dataset_cases(model.plans.dataset_name, [fold])[0], model)
    image, target = volume.image[None].to(device), volume.target[None].to(device)
    predictor = model.predictor(mirroring=False)
    begin = perf_counter()
    predictor.predict_logits_from_preprocessed_data(volume.image)
    clean = perf_counter() - begin
    whole, single = Pipeline(model, mirroring=False), Pipeline(model, mirroring=False, windows_per_pass=1)
    inside = _middle(volume.target, single.window)
    situations = {
        "one window": _situation(single, image[inside], target[inside]),
        "whole case": _situation(whole, image, target),
        "window by window": _situation(single, image, target),
        "one slice": _situation(whole, image, target, _slice(image, inside)),
    }
    return {"clean_prediction": clean, "case": volume.case.name, "situations": situations}


def _middle(target: Tensor, sizes: Sequence[int]) -> tuple[slice, ...]:
    """A window of these sizes around the middle of the foreground of a target (1, *spatial)."""
    centre = (target[0] > 0).nonzero().float().mean(0)
    begins = [
        max(0, min(int(middle) - size // 2, limit - size))
        for middle, size, limit in zip(centre.tolist(), sizes, target.shape[1:], strict=True)
    ]
    return (slice(None), slice(None), *(slice(begin, begin + size) for begin, size in zip(begins, sizes, strict=True)))


def _slice(image: Tensor, inside: tuple[slice, ...]) -> Tensor:
    """1 on the first of these slices, 0 elsewhere."""
    free = torch.zeros_like(image)
    free[:, :, inside[2].start] = 1
    return free


def _situation(pipeline: Pipeline, x: Tensor, y: Tensor, free: Tensor | None = None) -> dict[str, Any]:
    dice = partial(mean_dice_present, labels=pipeline.model.labels)
    # quality 1 + Dice: no sample leaves early
    problem = Problem(pipeline, x, y, torch.full((1,), 1.0, device=x.device), NORMS["L2"], lambda z, t: 1 + dice(z, t))
    problem = problem if free is None else problem.confined(free)
    loss = bound("dice_ce", pipeline.model.labels)

    def attack(steps: int) -> None:
        pgd(problem, loss, steps=steps, generator=torch.Generator().manual_seed(0))

    batches = pipeline.batches(x[0])

    def bare() -> None:
        for network, windows in batches:
            windows = windows.detach().requires_grad_()
            with torch.autocast(x.device.type, enabled=x.device.type == "cuda"):
                logits = network(windows)
            torch.autograd.grad(logits, windows, torch.ones_like(logits))

    steps, ratios = [], []
    for number in range(REPETITIONS + 1):
        # an attack's entry and exit, its looks without a gradient, cancel
        step = (seconds_of(partial(attack, STEPS + 1), x) - seconds_of(partial(attack, 1), x)) / STEPS
        plain = median(seconds_of(bare, x) for _ in range(3))
        if number:  # the first round warms up
            steps.append(step)
            ratios.append(step / plain)
    return {
        "windows": pipeline.windows(x.shape[2:]),
        "windows_per_pass": pipeline.windows_per_pass,
        "seconds": median(steps),
        "ratio": median(ratios),
        "peak_bytes": peak_bytes(partial(attack, 2), x),
    }


def seconds_of(work: Callable[[], None], x: Tensor) -> float:
    """Seconds of a piece of work, to its last operation on the device of a tensor."""
    begin = perf_counter()
    work()
    if x.is_cuda:
        torch.cuda.synchronize(x.device)
    return perf_counter() - begin


def peak_bytes(work: Callable[[], None], x: Tensor) -> float:
    """Most bytes that tensors hold, weights apart."""
    if x.is_cuda:
        before = torch.cuda.memory_allocated(x.device)
        torch.cuda.reset_peak_memory_stats(x.device)
        work()
        return float(torch.cuda.max_memory_allocated(x.device) - before)
    with LiveBytes() as counted:
        work()
    return float(counted.peak)


def attack_report(measured: dict[str, Any]) -> list[str]:
    """The measurement as a Markdown table."""
    lines = [
        "| attack step | windows | per pass | s (median) | of forward + input gradient | peak memory, MiB |",
        "|---|---|---|---|---|---|",
    ]
    for name, row in measured["situations"].items():
        lines.append(
            f"| {name} | {row['windows']} | {row['windows_per_pass']} | {row['seconds']:.4f} | {row['ratio']:.2f} | "
            f"{row['peak_bytes'] / 2**20:.1f} |"
        )
    clean = (
        f"nnU-Net's own prediction of {measured['case']} without mirrored copies: {measured['clean_prediction']:.2f} s."
    )
    return [*lines, "", clean]
