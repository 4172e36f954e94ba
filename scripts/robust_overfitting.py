"""Clean and robust Dice of every snapshot of a training, on validation cases and on those it has learned from.

    python scripts/robust_overfitting.py MODEL_FOLDER --fold 1 --eps 5 --reference-elements 2240 --output OUT

A training overfits robustly where Dice under noise still grows on training cases and falls on others. Network inputs
are attacked as in the paper's protocol; OUT_val.json and OUT_train.json keep the rows, OUT.md is the table.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
import tyro

from nnunet_ima.commands._run import run_cli
from nnunet_ima.files import write_atomically
from nnunet_ima.segmentation.protocol_table import KINDS, ProtocolTable, Question


@dataclass(kw_only=True)
class RobustOverfitting:
    """Clean and robust Dice of every snapshot of a training, on validation and on training cases."""

    model: tyro.conf.Positional[Path]
    """Results folder of a training with snapshots."""

    fold: int = 0
    """Fold that was trained."""

    eps: float
    """Noise, in the paper's unit."""

    reference_elements: int = 1
    """Elements at which ε is quoted: D4 2240."""

    steps: int = 20
    """Steps of projected gradient descent."""

    inputs: int = 150
    """About so many network inputs of each kind of cases, evenly spread over all with foreground."""

    device: str = "cuda" if torch.cuda.is_available() else "cpu"
    """Where to run."""

    output: Path
    """Where results go, without suffix."""

    def run(self) -> None:
        """Measure what is missing, and write the table."""
        fold = self.model / f"fold_{self.fold}"
        snapshots = {
            file.stem.removeprefix("epoch_").lstrip("0"): file for file in sorted(fold.glob("snapshots/*.pth"))
        }
        if not snapshots:
            msg = f"{fold}/snapshots holds no epoch_*.pth; a training of this package leaves them there"
            raise FileNotFoundError(msg)
        models = {f"epoch {epoch}": (self.model, f"snapshots/{file.name}") for epoch, file in snapshots.items()}
        models["final, averaged"] = self.model, "checkpoint_final.pth"
        tables = {kind: self._table(kind, models) for kind in KINDS}
        cells = {kind: table.cells() for kind, table in tables.items()}
        columns = [f"{name} cases, {noise}" for name in KINDS.values() for noise in ("clean", f"ε = {self.eps:g}")]
        lines = [f"| weights | {' | '.join(columns)} |", "|---" * 5 + "|"]
        for name in models:
            values = [cells[kind][name][eps]["pooled_dice"] for kind in KINDS for eps in (0.0, self.eps)]
            lines.append(f"| {name} | {' | '.join(f'{value:.3f}' for value in values)} |")
        lines += ["", *(table.protocol() for table in tables.values())]
        write_atomically(self.output.with_name(f"{self.output.name}.md"), "\n".join(lines) + "\n")
        print("\n".join(lines))

    def _table(self, kind: str, models: dict[str, tuple[Path, str]]) -> ProtocolTable:
        from nnunet_ima.segmentation.paper_protocol import cases_of_fold, load_model, network_inputs

        model = load_model(self.model, self.fold)
        every = max(1, len(network_inputs(model, cases_of_fold(model, kind))) // self.inputs)
        question = Question(self.reference_elements, self.fold, steps=self.steps, every=every, cases=kind)
        table = ProtocolTable(self.output.with_name(f"{self.output.name}_{kind}.json"), question)
        table.measure(models, (0.0, self.eps), self.device)
        return table


if __name__ == "__main__":
    run_cli("robust_overfitting.py", RobustOverfitting)
