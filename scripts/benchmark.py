"""Time and memory of an IMA training step, beside a plain nnU-Net step and a textbook IMA step; of an attack step.

All kinds of step take turns on the same batches and the same weights (the learning rate is 0), so that their ratios hold
on a noisy machine. With a checkpoint, an audit's attack step is compared with the bare network's forward pass and input
gradient (see attack_step.py). For example, after a training:

    python scripts/benchmark.py -d 4 -c 2d_cpu --checkpoint .../nnUNetTrainerIMA__nnUNetPlans__2d_cpu/fold_0/checkpoint_final.pth
"""  # noqa: E501

from __future__ import annotations

import json
import os
import platform
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import Annotated, Any

import numpy as np
import torch
import tyro
from attack_step import attack_report, measure_attack
from live_bytes import LiveBytes
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer
from nnunetv2.utilities.plans_handling.plans_handler import PlansManager
from torch import Tensor

from nnunet_ima.commands._run import run_cli
from nnunet_ima.commands.plan import parse_settings
from nnunet_ima.datasets.folders import find_dataset, nnunet_folder
from nnunet_ima.datasets.overlay import read_plans
from nnunet_ima.methods import options
from nnunet_ima.perturbation.norms import per_sample
from nnunet_ima.training.robust import RobustTrainer
from nnunet_ima.training.settings import PRESETS, change_settings
from nnunet_ima.training.trainers import nnUNetTrainerIMA


@dataclass(kw_only=True)
class Benchmark:
    """Time and memory of an IMA training step, beside a plain nnU-Net step and a textbook IMA step."""

    dataset: Annotated[str, tyro.conf.arg(aliases=["-d"])]
    """Number or folder name of a preprocessed data set."""

    configuration: Annotated[str, tyro.conf.arg(aliases=["-c"])] = "2d"
    """Configuration of its plans."""

    plans: Annotated[str, tyro.conf.arg(aliases=["-p"])] = "nnUNetPlans"
    """Name of the plans."""

    fold: Annotated[int, tyro.conf.arg(aliases=["-f"])] = 0
    """Fold whose training cases are used."""

    checkpoint: Path | None = None
    """Checkpoint of nnUNetTrainerIMA that gives weights and margins; fresh weights attack nothing."""

    margin_factor: float = 1.0
    """Multiplies the margins, to see the cost where more or fewer samples cross."""

    also: tuple[str, ...] = ()
    """Other settings of IMA's attack to measure beside, each such as steps=7,bisection_tolerance=0.05."""

    batches: int = 10
    """Number of paired repetitions."""

    device: str = "cuda" if torch.cuda.is_available() else "cpu"
    """Where to run."""

    output: Path | None = None
    """JSON file for the result."""

    def run(self) -> None:
        """Measure and print."""
        with tempfile.TemporaryDirectory() as results:
            os.environ["nnUNet_results"] = results  # the trainer makes a folder and a log that nobody needs
            trainer = self._trainer()
            measured = measure(trainer, self.batches, self.also)
        if self.checkpoint is not None:
            measured["attack_step"] = measure_attack(self.checkpoint, self.device)
        measured |= {
            "dataset": self.dataset,
            "configuration": self.configuration,
            "margin_factor": self.margin_factor,
            "device": torch.cuda.get_device_name() if self.device == "cuda" else platform.processor() or "cpu",
            "threads": torch.get_num_threads(),
            "torch": torch.__version__,
        }
        print(report(measured))
        if self.output is not None:
            self.output.parent.mkdir(parents=True, exist_ok=True)
            self.output.write_text(json.dumps(measured, indent=2) + "\n", encoding="utf-8")

    def _trainer(self) -> RobustTrainer:
        folder = nnunet_folder("nnUNet_preprocessed") / find_dataset(self.dataset)
        plans = read_plans(folder / f"{self.plans}.json")
        plans["continue_training"] = False
        PlansManager(plans).get_configuration(self.configuration)  # an unknown one is refused here
        plans = change_settings(plans, "ima", {"start_from": None, "preset": "default"})
        dataset_json = json.loads((folder / "dataset.json").read_text(encoding="utf-8"))
        trainer = nnUNetTrainerIMA(plans, self.configuration, self.fold, dataset_json, torch.device(self.device))
        trainer.initialize()
        if self.checkpoint is not None:
            trainer.load_checkpoint(str(self.checkpoint))
            if trainer.stored is not None:  # nothing is trained on, so that other settings do no harm
                trainer.stored["settings"] = trainer.settings.as_dict()
        epoch, trainer.current_epoch = trainer.current_epoch, 0
        trainer.on_train_start()
        trainer.current_epoch = epoch
        table = trainer.method.table
        table.load_state_dict({name: margin * self.margin_factor for name, margin in table.state_dict().items()})
        for group in trainer.optimizer.param_groups:
            group["lr"] = 0.0
        trainer.network.train()
        return trainer


@dataclass
class Found:
    """What the attacks of one kind of step found and spent."""

    crossed: float = 0.0
    attacked: float = 0.0
    size: float = 0.0
    forward: float = 0.0
    backward: float = 0.0

    def add(self, crossed: Tensor, size: Tensor, forward: float, backward: float) -> None:
        """Count one batch; passes are summed over samples."""
        self.crossed += float(crossed.sum())
        self.attacked += len(crossed)
        self.size += float(size.sum())
        self.forward += forward
        self.backward += backward

    def summary(self) -> dict[str, float]:
        """Per attacked sample."""
        count = max(self.attacked, 1)
        names = ("crossed", "size", "forward", "backward")
        return {name: getattr(self, name) / count for name in names} | {"attacked": self.attacked}


def measure(trainer: RobustTrainer, batches: int, also: Sequence[str] = ()) -> dict[str, Any]:
    """Run each kind of step on each batch, in turn; medians of seconds, paired ratios, passes and peak memory."""
    kinds = _kinds(trainer, also)
    seconds: dict[str, list[float]] = {kind: [] for kind in kinds}
    found = {kind: Found() for kind in kinds}
    peak: dict[str, float] = {}
    for number in range(batches + 1):
        batch = next(trainer.dataloader_train)
        for kind, step in kinds.items():
            trainer.iteration = number  # the same random starts for all
            begin = perf_counter()
            result = step(batch)
            _synchronize(trainer.device)
            if number:  # the first round warms up
                seconds[kind].append(perf_counter() - begin)
                if result is not None:
                    found[kind].add(*result)
    for kind, step in kinds.items():
        peak[kind] = _peak_memory(trainer, step, batch)
    ratios = {
        f"{a} / {b}": median(x / y for x, y in zip(seconds[a], seconds[b], strict=True))
        for a, b in (*((kind, "plain") for kind in kinds if kind != "plain"), ("paper", "textbook"))
    }
    return {
        "seconds": {kind: median(values) for kind, values in seconds.items()},
        "ratios": ratios,
        "attack": {kind: found[kind].summary() for kind in kinds if kind != "plain"},
        "peak_bytes": peak,
        "batches": batches,
    }


def _kinds(trainer: RobustTrainer, also: Sequence[str]) -> dict[str, Callable[[Any], Any]]:
    """The steps to compare, by name; each returns what `Found.add` takes.

    Args:
        trainer: whose network learns.
        also: settings of IMA, "name=value,name=value", that replace those of the default preset.
    """

    def plain(batch: dict[str, Any]) -> None:
        nnUNetTrainer.train_step(trainer, batch)

    def ours(preset: str, changed: str = "") -> Callable[[Any], Any]:
        """Our step with the attack of a preset, some of its settings changed."""
        chosen = {**options("ima"), **PRESETS[preset].get("ima", {})}
        changes = {key: chosen[key] for key in ("steps", "alpha", "start", "bisection_tolerance")}
        changes |= parse_settings(changed.split(",")) if changed else {}

        def step(batch: dict[str, Any]) -> Any:
            method = replace(trainer.method, **changes)
            method.table = trainer.method.table
            results, original = [], method.attack
            method.attack = lambda *arguments: results.append(original(*arguments)) or results[0]
            trainer.method, former = method, trainer.method
            try:
                trainer.train_step(batch)
            finally:
                trainer.method = former
            if not results:
                return None
            got = results[0]
            size = got.size / trainer.budget.scale
            return got.crossed, size, float(got.forward.sum()), float(got.backward.sum())

        return step

    return {
        "plain": plain,
        "default": ours("default"),
        **{changed: ours("default", changed) for changed in also},
        "paper": ours("paper"),
        "textbook": lambda batch: textbook_step(trainer, batch),
    }


def textbook_step(trainer: RobustTrainer, batch: dict[str, Any], steps: int = 20, bisections: int = 10) -> Any:
    """Algorithms 1 and 3 as written: the whole batch, all steps, all bisections, whatever has crossed."""
    method, scale, learner = trainer.method, trainer.budget.scale, trainer.learner(batch)
    norm, task, x, y = method.run.norm, trainer.task, learner.x, learner.y
    trainer.optimizer.zero_grad(set_to_none=True)
    with learner.attackable() as model, torch.no_grad():
        right_at_start = task.score(model(x), y) >= 0
    eps = method.table.radius(learner.names).to(x) * scale
    expansion = method.table.delta * scale
    delta = torch.zeros_like(x)
    if right_at_start.any():  # the random start that our attack draws for the same samples
        chosen = right_at_start.nonzero()[:, 0]
        delta[chosen] = norm.random(x[chosen], learner.generator) * per_sample(
            (eps[chosen] - expansion).clamp_min(expansion).minimum(eps[chosen]), x
        )
    last_right, first_wrong = torch.zeros_like(x), torch.zeros_like(x)
    crossed = torch.zeros(len(x), dtype=torch.bool, device=x.device)
    with learner.attackable() as model:
        for number in range(steps + 1):
            x_n = (x + delta).requires_grad_()
            logits = model(x_n)
            right = task.score(logits.detach(), y) >= 0
            newly = ~right & ~crossed
            last_right = torch.where(per_sample(right & ~crossed, x), delta, last_right)
            first_wrong = torch.where(per_sample(newly, x), delta, first_wrong)
            crossed |= newly
            if number < steps:
                gradient = torch.autograd.grad(task.loss(logits, y).sum(), x_n)[0]
                delta = norm.project(delta + norm.steepest(gradient) * per_sample(4 * eps / steps, x), eps)
        low, high = last_right, torch.where(per_sample(crossed, x), first_wrong, last_right)
        with torch.no_grad():
            for _ in range(bisections):
                middle = (low + high) / 2
                right = per_sample(task.score(model(x + middle), y) >= 0, x)
                low, high = torch.where(right, middle, low), torch.where(right, high, middle)
    noise = torch.where(per_sample(crossed, x), (low + high) / 2, delta)
    attacked = right_at_start.nonzero()[:, 0]
    loss = learner(x).losses.mean()
    if len(attacked):
        boundary = learner((x + noise)[attacked], attacked).losses.mean()
        loss = (1 - method.beta) * loss + method.beta * boundary
    learner.backward(loss)
    trainer._optimizer_step()
    if len(attacked) == 0:
        return None
    spent = len(attacked)
    size = norm.size(noise)[attacked] / scale
    return crossed[attacked], size, spent * (steps + 1.0 + bisections), spent * float(steps)


def _peak_memory(trainer: RobustTrainer, step: Callable[[Any], Any], batch: dict[str, Any]) -> float:
    """Most bytes that tensors hold during a step: weights, momentum, gradients, activations."""
    if trainer.device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(trainer.device)
        step(batch)
        return float(torch.cuda.max_memory_allocated(trainer.device))
    trainer.optimizer.zero_grad(set_to_none=True)
    with LiveBytes() as counted:
        step(batch)
    return float(counted.peak + 2 * sum(p.numel() * p.element_size() for p in trainer.network.parameters()))


def _synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def report(measured: dict[str, Any]) -> str:
    """The result as Markdown tables."""
    lines = ["| step | s (median) | peak memory, MiB | of plain |", "|---|---|---|---|"]
    for kind, value in measured["seconds"].items():
        memory = measured["peak_bytes"][kind]
        share = memory / measured["peak_bytes"]["plain"]
        lines.append(f"| {kind} | {value:.3f} | {memory / 2**20:.0f} | {share:.2f} |")
    lines += ["", "| ratio of seconds, median of pairs | |", "|---|---|"]
    lines += [f"| {pair} | {value:.2f} |" for pair, value in measured["ratios"].items()]
    lines += ["", "| attack | attacked | crossed | mean noise | forward | backward passes per attacked sample |"]
    lines.append("|---|---|---|---|---|---|")
    for kind, row in measured["attack"].items():
        lines.append(
            f"| {kind} | {row['attacked']:.0f} | {row['crossed']:.1%} | {row['size']:.3f} | "
            f"{row['forward']:.1f} | {row['backward']:.1f} |"
        )
    if "attack_step" in measured:
        lines += ["", *attack_report(measured["attack_step"])]
    lines.append(f"\n{measured['batches']} batches; {measured['device']}, {measured['threads']} threads.")
    return "\n".join(lines)


if __name__ == "__main__":
    np.seterr(invalid="ignore")
    run_cli("benchmark.py", Benchmark)
