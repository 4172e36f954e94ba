"""What a step of the search for the worst change costs, beside a step of an attack on noise, in one run.

    python scripts/worst_shift_step.py MODEL_FOLDER --modality MR --repetitions 15

Both look at the first validation case of the fold: fused logits, hard Dice, soft Dice loss, gradient. Steps alternate,
so that what else the machine does meets both; the ratio is the median of the pairs.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from functools import partial
from pathlib import Path
from statistics import median
from time import process_time

import torch
from torch import Tensor

from nnunet_ima.attacks.losses import bound
from nnunet_ima.inference.cases import dataset_cases
from nnunet_ima.inference.model import open_model
from nnunet_ima.inference.pipeline import Pipeline
from nnunet_ima.inference.preprocessing import Preprocessing
from nnunet_ima.inference.volume import read_volume
from nnunet_ima.segmentation.worst_search import ChangedScan
from nnunet_ima.shift.scan_files import read_scan
from nnunet_ima.shift.searched import make_chain
from nnunet_ima.tasks.voxelwise import mean_dice_present


def steps(folder: Path, fold: str, modality: str, mirroring: bool) -> tuple[Callable[[], None], Callable[[], None]]:
    """A step of the search, and one of an attack."""
    model = open_model(folder, [fold], device="cpu")
    pipeline = Pipeline(model, mirroring=mirroring)
    case = dataset_cases(model.plans.dataset_name, [fold])[0]
    volume, scan = read_volume(case, model), read_scan(case.images, case.label, modality)
    changed = ChangedScan(pipeline, Preprocessing(model, scan.spacing), scan, make_chain(scan, 1, 0))
    target, dice = volume.target[None], bound("dice", model.labels)

    def step(
        x: Tensor,
        predict: Callable[[Tensor], Tensor],
        look: Callable[[Tensor], Tensor],
        loss: Callable[[Tensor], Tensor],
    ) -> None:
        predicted = predict(x)
        look(predicted.detach())
        torch.autograd.grad(loss(predicted).sum(), x)

    unit = torch.zeros((1, len(changed.chain.low)), requires_grad=True)
    search = partial(
        step, unit, changed.predicted, lambda it: changed.quality(it, unit), lambda it: changed.loss(it, unit, 0.0)
    )
    image = volume.image[None].clone().requires_grad_()
    attack = partial(
        step,
        image,
        pipeline,
        lambda it: mean_dice_present(it, target, model.labels),
        lambda it: dice(it, target, 0.0),
    )
    return search, attack


def main() -> None:
    """Print seconds of both steps and their ratio."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("--fold", default="0")
    parser.add_argument("--modality", default="MR", choices=("MR", "CT", "any"))
    parser.add_argument("--no-tta", action="store_true", help="without mirrored copies")
    parser.add_argument("--repetitions", type=int, default=15)
    arguments = parser.parse_args()
    both = steps(arguments.model, arguments.fold, arguments.modality, not arguments.no_tta)
    pairs = []
    for number in range(arguments.repetitions + 1):
        times = []
        for step in both:
            begin = process_time()
            step()
            times.append(process_time() - begin)
        if number:  # the first pair warms up
            pairs.append(times)
    search, attack = (median(times) for times in zip(*pairs, strict=True))
    ratio = median(first / second for first, second in pairs)
    print(f"search {search:.3f} s, attack {attack:.3f} s of processor time; ratio {ratio:.2f} ({len(pairs)} pairs)")


if __name__ == "__main__":
    main()
