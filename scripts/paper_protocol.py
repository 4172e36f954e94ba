"""Attack trained models as the paper does, and write the table: PGD on each network input, pooled Dice.

For example:

    python scripts/paper_protocol.py --models plain=RESULTS/nnUNetTrainerPlain__nnUNetPlans__2d_cpu \
        ima=RESULTS/nnUNetTrainerIMA__nnUNetPlans__2d_cpu --eps 0 5 10 --reference-elements 2240 --output results/d4_2d_cpu
"""  # noqa: E501

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch

from nnunet_ima.commands._run import run_cli
from nnunet_ima.segmentation.paper_protocol import TRAINED
from nnunet_ima.segmentation.protocol_table import ProtocolTable, Question


@dataclass(kw_only=True)
class PaperProtocol:
    """Attack trained models as the paper does, and write the table: PGD on each network input, pooled Dice."""

    models: tuple[str, ...]
    """Models as name=results folder; name=results folder:checkpoint.pth names another checkpoint than the final one."""

    eps: tuple[float, ...] = (0.0, 5.0, 10.0)
    """Noise levels, in the paper's unit: the norm on `reference_elements` elements."""

    reference_elements: int = 1
    """Elements at which ε is quoted: D4 2240, D2 81920, D5 204800; 1 makes ε the RMS noise."""

    output: Path
    """Writes OUTPUT.json and OUTPUT.md; rows that OUTPUT.json already holds for the same question are not repeated."""

    fold: int = 0
    """Fold whose cases are attacked."""

    cases: Literal["val", "train"] = "val"
    """Its validation cases, or those that the models have learned from."""

    norm: str = "L2"
    """L2 or Linf."""

    steps: int = 100
    """Steps of projected gradient descent."""

    every: int = 1
    """Attack every n-th network input only."""

    batch_size: int = 32
    """Network inputs per pass."""

    seed: int = 0
    """Seed of the random starts."""

    losses: tuple[str, ...] = (TRAINED,)
    """What is climbed: dice_ce as in the paper; with several, such as dice_ce balanced_masked_ce, the worst of one PGD
    for each counts."""

    device: str = "cuda" if torch.cuda.is_available() else "cpu"
    """Where to run."""

    note: str = ""
    """A remark that goes under the table."""

    def run(self) -> None:
        """Measure what is missing, one row at a time, and write after each."""
        question = Question(
            self.reference_elements,
            self.fold,
            self.norm,
            self.steps,
            self.every,
            self.seed,
            self.losses,
            self.cases,
        )
        table = ProtocolTable(self.output.with_name(f"{self.output.name}.json"), question, self.note)
        models = {}
        for entry in self.models:
            name, _, place = entry.partition("=")  # so names hold no "="
            folder, _, checkpoint = place.partition(":")
            if not name or not folder:
                msg = f"a model is written name=results folder, got {entry!r}"
                raise ValueError(msg)
            models[name] = (Path(folder), checkpoint or "checkpoint_final.pth")
        table.measure(models, self.eps, self.device, self.batch_size)
        print(table.markdown())


if __name__ == "__main__":
    run_cli("paper_protocol.py", PaperProtocol)
