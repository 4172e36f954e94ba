"""Does what is written for GPUs work on this one? IMA in half precision, compiled or not, and in two processes.

Part of scripts/gpu.sh. On a CPU the same checks run, without half precision and compiling.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from time import perf_counter
from typing import Any

import with_trainers  # noqa: F401 - for the processes that start here

# isort: split
import torch
from nnunetv2.training.nnUNetTrainer import nnUNetTrainer
from torch import distributed as dist
from torch import multiprocessing as mp
from torch.nn.parallel import DistributedDataParallel

from nnunet_ima.perturbation.half_precision import HALF
from nnunet_ima.training.robust import RobustTrainer
from nnunet_ima.training.scheduled import environment
from nnunet_ima.training.settings import change_settings

# A fresh network predicts foreground almost at random; with a low τ it counts as right, and is attacked.
EASY = {"tau": 0.01, "epochs": 1, "iterations_per_epoch": 2, "robust_interval": 1, "robust_steps": 2, "eps": 0.2}


@dataclass(frozen=True)
class Check:
    """One check.

    Attributes:
        name: what was checked.
        passed: whether all was as it should be.
        found: what was seen, or the error.
        seconds: that it took.
    """

    name: str
    passed: bool
    found: str
    seconds: float


class SharedTrainer(RobustTrainer):
    """Brings every rank back to one device, which several processes then share."""

    shared: torch.device

    def initialize(self) -> None:
        """Build everything there."""
        self.device = self.shared
        if self.shared.type != "cuda":
            self.grad_scaler = None
        super().initialize()


def run_checks(folder: Path, configurations: tuple[str, ...], device: str) -> list[Check]:
    """Run all checks on a preprocessed data set; a failure is an entry, not an error.

    Args:
        folder: preprocessed data set.
        configurations: of its plans.
        device: where to compute.
    """
    checks = []
    with tempfile.TemporaryDirectory() as results, environment(nnUNet_results=results):
        for configuration in configurations:
            for compiled in (False, True) if device == "cuda" else (False,):
                with environment(nnUNet_compile="t" if compiled else "f"):
                    name = f"{configuration}, {'compiled' if compiled else 'not compiled'}"
                    checks.append(_checked(name, lambda c=configuration: _steps(folder, c, device)))
        checks.append(
            _checked("gradient of an attack", lambda: _half_against_single(folder, configurations[0], device))
        )
        with environment(nnUNet_compile="f", nnUNet_n_proc_DA="0"):
            checks.append(
                _checked("two processes", lambda: _two_processes(folder, configurations[0], device, Path(results)))
            )
    return checks


def report(checks: list[Check]) -> str:
    """The checks as a Markdown table."""
    lines = ["| check | passed | found | s |", "|---|---|---|---|"]
    lines += [
        f"| {check.name} | {'yes' if check.passed else '**no**'} | {check.found} | {check.seconds:.0f} |"
        for check in checks
    ]
    return "\n".join(lines)


def as_json(checks: list[Check]) -> list[dict[str, Any]]:
    """The checks as JSON values."""
    return [asdict(check) for check in checks]


def _checked(name: str, check: Callable[[], str]) -> Check:
    begin, passed = perf_counter(), True
    try:
        found = check()
    except Exception as error:  # whatever a device can do wrong
        lines = str(error).strip().splitlines() or [""]
        passed, found = False, f"{type(error).__name__}: {lines[-1]}".replace("|", "/")
    print(f"{name}: {'passed' if passed else 'FAILED'}, {found}", flush=True)  # a part may be stopped before its end
    return Check(name, passed, found, perf_counter() - begin)


def _plans(folder: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    plans = json.loads((folder / "nnUNetPlans.json").read_text(encoding="utf-8"))
    easy = change_settings({**plans, "ima": {}, "schedule": {"reference_elements": 1}}, "ima", {**EASY, "delta": 0.1})
    dataset_json = json.loads((folder / "dataset.json").read_text(encoding="utf-8"))
    return {**easy, "continue_training": False, "plans_name": "nnUNetPlansChecks"}, dataset_json


def _trainer(folder: Path, configuration: str, device: str) -> RobustTrainer:
    plans, dataset_json = _plans(folder)
    return RobustTrainer(plans, configuration, 0, dataset_json, torch.device(device))


def _steps(folder: Path, configuration: str, device: str) -> str:
    """An epoch of IMA, its validation under attack, checkpoints, and going on from them."""
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
    trainer = _trainer(folder, configuration, device)
    trainer.initialize()
    before = [weight.detach().clone() for weight in trainer.network.parameters()]
    seen = set()
    trainer.network.register_forward_hook(lambda module, inputs, output: seen.add(_first(output).dtype))
    trainer.run_training()
    moved = any(not torch.equal(a, b) for a, b in zip(before, trainer.network.parameters(), strict=True))
    log = trainer.logger.local_logger.my_fantastic_logging
    margins = torch.tensor(list((trainer.method.margins() or {}).values()))
    _require(all(weight.isfinite().all() for weight in trainer.network.parameters()), "weights are not finite")
    _require(bool(torch.tensor(log["train_losses"]).isfinite().all()), f"losses are {log['train_losses']}")
    _require(bool((margins >= 0).all() and (margins <= EASY["eps"]).all()), "margins have left their range")
    _require(log["ima_attacked"][-1] > 0, "no sample was attacked")
    scale = "none" if trainer.grad_scaler is None else f"{trainer.grad_scaler.get_scale():g}"
    _require(moved or trainer.grad_scaler is not None, "the weights have not moved")
    _require(HALF.get(device, torch.float32) in seen, f"passes were in {seen}")
    again = _trainer(folder, configuration, device)
    again.load_checkpoint(str(Path(trainer.output_folder) / "checkpoint_final.pth"))
    memory = f", {torch.cuda.max_memory_allocated() / 2**20:.0f} MiB" if device == "cuda" else ""
    precision = ", ".join(sorted(str(dtype).removeprefix("torch.") for dtype in seen))
    return f"passes in {precision}; scale {scale}; {log['ima_attacked'][-1]:.0%} attacked{memory}"


def _half_against_single(folder: Path, configuration: str, device: str) -> str:
    """The gradient that an attack follows, in the precision of the device, beside that of float32."""
    trainer = _trainer(folder, configuration, device)
    with environment(nnUNet_compile="f"):
        trainer.on_train_start()
    learner = trainer.learner(next(trainer.dataloader_train))  # type: ignore[call-overload]

    def gradient() -> torch.Tensor:
        x = learner.x.detach().clone().requires_grad_()
        with learner.attackable() as model:
            return torch.autograd.grad(trainer.task.loss(model(x), learner.y).sum(), x)[0].flatten(1).double()

    found = gradient()
    kept = HALF.pop(device, None)
    try:
        expected = gradient()
    finally:
        if kept is not None:
            HALF[device] = kept
    cosine = (found * expected).sum(1) / (found.norm(dim=1) * expected.norm(dim=1)).clamp_min(1e-300)
    _require(bool(found.isfinite().all()), "it is not finite")
    _require(float(cosine.min()) > 0.9, f"the cosine with that of float32 is {float(cosine.min()):.3f}")
    return f"smallest cosine with that of float32 {float(cosine.min()):.5f}"


def _two_processes(folder: Path, configuration: str, device: str, results: Path) -> str:
    """Two ranks that share the device end with the same weights and margins."""
    begin = results / "rendezvous"
    mp.spawn(train_rank, (str(begin), str(folder), configuration, device, str(results)), nprocs=2)
    first, second = (json.loads((results / f"rank{rank}.json").read_text()) for rank in (0, 1))
    _require(first == second, "the ranks differ")
    return f"the same weights and {len(first['margins'])} margins on both"


def train_rank(rank: int, rendezvous: str, folder: str, configuration: str, device: str, results: str) -> None:
    """Train as one of two ranks, and write down what must be equal on both."""
    dist.init_process_group("gloo", init_method=f"file://{rendezvous}", rank=rank, world_size=2)
    nnUNetTrainer.DDP = lambda network, device_ids: DistributedDataParallel(network)
    SharedTrainer.shared = torch.device(device, 0) if device == "cuda" else torch.device(device)
    plans, dataset_json = _plans(Path(folder))
    trainer = SharedTrainer(plans, configuration, 0, dataset_json)
    trainer.initialize()
    trainer.run_training()
    result = {
        "margins": {str(name): margin for name, margin in (trainer.method.margins() or {}).items()},
        "weights": float(sum(p.detach().double().abs().sum() for p in trainer.network.parameters())),
    }
    Path(results, f"rank{rank}.json").write_text(json.dumps(result))
    dist.barrier()  # a process that ends before the others may abort on its way out
    dist.destroy_process_group()


def _first(output: Any) -> torch.Tensor:
    tensor: torch.Tensor = output[0] if isinstance(output, (list, tuple)) else output
    return tensor


def _require(fits: bool, otherwise: str) -> None:
    if not fits:
        raise ValueError(otherwise)
