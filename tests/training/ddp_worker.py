"""One rank of a training on two CPU processes; nnU-Net itself trains with DDP on CUDA only."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from nnunetv2.training.nnUNetTrainer import nnUNetTrainer
from torch import distributed as dist
from torch.nn.parallel import DistributedDataParallel

from nnunet_ima.tasks.segmentation import Segmentation
from nnunet_ima.training.robust import RobustTrainer


class CpuTrainer(RobustTrainer):
    """Brings the trainer back from the CUDA device that nnU-Net gives every rank."""

    def initialize(self) -> None:
        """Build everything on the CPU."""
        self.device, self.grad_scaler = torch.device("cpu"), None
        super().initialize()


@dataclass(frozen=True)
class WrongInTheSecondStep(Segmentation):
    """In the second step this rank has nothing right, so that IMA and MMA attack nothing; the other must not hang."""

    trainer: Any = None

    def score(self, logits: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        """Scores below 0 in the second step."""
        return super().score(logits, target) - 10 * (self.trainer.iteration == 1)


def run(
    rank: int, rendezvous: str, plans: dict[str, dict[str, Any]], dataset_json: dict[str, Any], output: str
) -> None:
    """Train by each method and write down what must be equal on all ranks, and what may differ."""
    os.environ["nnUNet_n_proc_DA"] = "0"
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{rendezvous}", rank=rank, world_size=2)
    nnUNetTrainer.DDP = lambda network, device_ids: DistributedDataParallel(network)
    results = {method: trained(rank, method, plans[method], dataset_json) for method in plans}
    Path(output, f"rank{rank}.json").write_text(json.dumps(results))
    dist.barrier()  # with Gloo, a process that ends before the others now and then aborts on its way out
    dist.destroy_process_group()


def trained(rank: int, method: str, plans: dict[str, Any], dataset_json: dict[str, Any]) -> dict[str, Any]:
    """What a training by a method has come to on this rank."""
    CpuTrainer.method_name = method
    trainer = CpuTrainer(plans, "2d", 0, dataset_json)
    trainer.initialize()
    if rank == 1:
        trainer.task = WrongInTheSecondStep(trainer.labels, trainer.settings.tau, trainer=trainer)
    trainer.run_training()
    return {
        "margins": {str(name): margin for name, margin in (trainer.method.margins() or {}).items()},
        "weights": float(sum(p.detach().double().abs().sum() for p in trainer.network.parameters())),
        "attacked": trainer.logger.get_value("ima_attacked", step=-1),
        "robust": trainer.logger.get_value("ima_robust_dice", step=-1),
    }
