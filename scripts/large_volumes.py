"""How much memory an audit needs on large volumes: all that lives at once, per voxel, and what that is for a CT scan.

A tiny network sees two random volumes, one twice as long as the other: what the longer one needs more, for each voxel
more, is what grows with the volume, without windows and weights. Images and labels themselves, which are there
before, do not count. Tensors alone are seen: NumPy's arrays in nnU-Net's export come on top.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from functools import partial
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
import torch
from attack_step import peak_bytes, seconds_of
from live_bytes import LiveBytes
from nnunetv2.utilities.plans_handling.plans_handler import PlansManager
from torch import nn

from nnunet_ima.attacks.losses import bound
from nnunet_ima.attacks.noise import draw_white_noise
from nnunet_ima.attacks.pgd import pgd
from nnunet_ima.attacks.presets import STANDARD
from nnunet_ima.attacks.problem import Problem
from nnunet_ima.inference.model import TrainedModel
from nnunet_ima.inference.pipeline import Pipeline
from nnunet_ima.inference.volume import Volume
from nnunet_ima.perturbation.norms import NORMS
from nnunet_ima.segmentation import confidence
from nnunet_ima.segmentation.predictions import Predictions
from nnunet_ima.segmentation.target import Target
from nnunet_ima.tasks import slabs
from nnunet_ima.tasks.voxelwise import mean_dice_present

SHAPES = ((32, 24, 16), (64, 24, 16))  # voxels
PATCH = (16, 16, 16)
CLASSES = (2, 117)
CT = (512, 512, 600)
STEPS = 4  # of an attack: one at each radius of a large-to-small one, and one that nothing is new in

Work = Callable[[], object]


def make_model(classes: int, patch: tuple[int, ...] = PATCH, device: str = "cpu") -> TrainedModel:
    """A tiny network with an instance norm and random weights, and just the plans that prediction asks for."""
    torch.manual_seed(0)
    resampling = {"fn": "resample_data_or_seg_to_shape", "kwargs": {"is_seg": False, "order": 1, "order_z": 0}}
    configuration = {
        "patch_size": list(patch),
        "architecture": {},
        "spacing": [1.0, 1.0, 1.0],
        "resampling_fn_probabilities": resampling["fn"],
        "resampling_fn_probabilities_kwargs": {**resampling["kwargs"], "force_separate_z": None},
    }
    plans = PlansManager(
        {
            "configurations": {"3d_fullres": configuration},
            "label_manager": "LabelManager",
            "transpose_forward": [0, 1, 2],
            "transpose_backward": [0, 1, 2],
        }
    )
    network = nn.Sequential(
        nn.Conv3d(1, 4, 3, padding=1), nn.InstanceNorm3d(4), nn.LeakyReLU(), nn.Conv3d(4, classes, 1)
    )
    return TrainedModel(
        folder=Path(),
        trainer="nnUNetTrainer",
        configuration_name="3d_fullres",
        folds=("0",),
        checkpoints=(),
        networks=(network.eval().requires_grad_(False).to(device),),
        plans=plans,
        configuration=plans.get_configuration("3d_fullres"),
        dataset_json={
            "labels": {"background": 0, **{f"class {number}": number for number in range(1, classes)}},
            "channel_names": {"0": "CT"},
        },
        mirror_axes=None,
        device=torch.device(device),
    )


def make_volume(shape: tuple[int, ...], classes: int) -> Volume:
    """A random image and random labels, as if read without a crop and without resampling."""
    generator = torch.Generator().manual_seed(0)
    target = torch.randint(classes, (1, *shape), generator=generator)
    properties: dict[str, Any] = {
        "spacing": [1.0, 1.0, 1.0],
        "shape_before_cropping": shape,
        "shape_after_cropping_and_before_resampling": shape,
        "bbox_used_for_cropping": [[0, size] for size in shape],
    }
    return Volume(
        case=None,  # type: ignore[arg-type]  # there are no files
        image=torch.randn((1, *shape), generator=generator),
        target=target,
        properties=properties,
        label=target[0].numpy().astype(np.int16),
        scale=(1.0,),
        mask=np.ones(shape, bool),
    )


def works(shape: tuple[int, ...], classes: int) -> dict[str, Work]:
    """What is measured, by name."""
    model, volume = make_model(classes), make_volume(shape, classes)
    pipeline = Pipeline(model, windows_per_pass=1)
    predictions = Predictions("model", pipeline, "case", None)  # type: ignore[arg-type]  # nothing is stored
    predictor, norm = model.predictor(), NORMS["L2"]

    def numbers() -> torch.Generator:
        return torch.Generator().manual_seed(0)

    def attack(component: Any) -> Work:
        def work() -> None:
            problem = Target(pipeline, volume, norm).problem(1.0, None, "")
            component.with_steps(STEPS).run(problem, model.labels, numbers())

        return work

    def white() -> None:
        problem = Target(pipeline, volume, norm).problem(1.0, None, "")
        noise = draw_white_noise("gaussian", problem, numbers())
        predictions.predict((problem.x + noise)[0], volume)

    return {
        "nnU-Net's own logits": lambda: predictor.predict_logits_from_preprocessed_data(volume.image),
        "scoring: logits, export, confidence": lambda: predictions.predict_surely(volume.image, volume),
        "white noise, scored": white,
        "clean look for the temperature": lambda: Target(pipeline, volume, norm).temperature,
        **{f"attack `{component.name}`": attack(component) for component in STANDARD},
    }


def peaks(shape: tuple[int, ...], classes: int) -> dict[str, int]:
    """Most bytes that live at once, by name of the work."""
    found = {}
    for name, work in works(shape, classes).items():
        slabs.ELEMENTS = confidence.ELEMENTS = (
            classes * 2 * prod(shape[1:])
        )  # two slices: small beside these volumes, as beside large ones
        with LiveBytes() as counted:
            work()
        found[name] = counted.peak
    return found


def bytes_per_voxel(classes: int) -> dict[str, float]:
    """What grows with the volume, by name of the work."""
    short, long = (peaks(shape, classes) for shape in SHAPES)
    more = prod(SHAPES[1]) - prod(SHAPES[0])
    return {name: (long[name] - short[name]) / more for name in long}


def large_attack(device: str, classes: int, shape: tuple[int, ...], patch: int) -> dict[str, Any]:
    """Seconds and peak memory of an attack's step on one large volume, which is there before.

    Returns:
        classes, shape and windows; seconds of a gradient step; peak bytes of an attack; the bound.
    """
    model = make_model(classes, (patch,) * 3, device)
    pipeline, dice = Pipeline(model, windows_per_pass=1), partial(mean_dice_present, labels=model.labels)
    x = torch.randn((1, 1, *shape), device=device)
    y = torch.randint(classes, (1, 1, *shape), device=device, dtype=torch.int8)
    # quality 1 + Dice: it does not leave early
    problem = Problem(pipeline, x, y, torch.full((1,), 5.0, device=device), NORMS["L2"], lambda z, t: 1 + dice(z, t))

    def attack(steps: int) -> None:
        pgd(problem, bound("dice_ce", model.labels), steps=steps, generator=torch.Generator().manual_seed(0))

    one, two = (seconds_of(partial(attack, steps), x) for steps in (1, 2))
    return {
        "classes": classes,
        "shape": shape,
        "windows": pipeline.windows(shape),
        "seconds": two - one,
        "peak_bytes": peak_bytes(partial(attack, 1), x),
        "bound_bytes": (8 * classes + 64) * prod(shape),
    }


def large_report(measured: list[dict[str, Any]]) -> list[str]:
    """What `large_attack` found, as a Markdown table."""
    lines = ["| voxels | classes | windows | s per step | peak, GB | bound, GB |", "|---|---|---|---|---|---|"]
    for row in measured:
        lines.append(
            f"| {'×'.join(map(str, row['shape']))} | {row['classes']} | {row['windows']} | {row['seconds']:.2f} | "
            f"{row['peak_bytes'] / 1e9:.1f} | {row['bound_bytes'] / 1e9:.1f} |"
        )
    return lines


def table() -> list[str]:
    """The measurement as a Markdown table."""
    found = {classes: bytes_per_voxel(classes) for classes in CLASSES}
    columns = [f"{what}, {classes} classes" for what in ("bytes per voxel", "logits", "GB") for classes in CLASSES]
    lines = [f"| | {' | '.join(columns)} |", "|---" * (len(columns) + 1) + "|"]
    for name in found[CLASSES[0]]:
        sizes = [found[classes][name] for classes in CLASSES]
        logits = [size / (4 * classes) for size, classes in zip(sizes, CLASSES, strict=True)]
        numbers = [f"{size:.0f}" for size in sizes] + [f"{share:.1f}" for share in logits]
        lines.append(f"| {name} | {' | '.join(numbers + [f'{size * prod(CT) / 1e9:.0f}' for size in sizes])} |")
    return lines


def main() -> None:
    """Print the table."""
    argparse.ArgumentParser(description=__doc__).parse_args()
    told = "×".join(map(str, CT))
    print(f"GB: for {told} voxels. Logits: volumes of all classes' logits in float32.\n")
    print("\n".join(table()))


if __name__ == "__main__":
    main()
