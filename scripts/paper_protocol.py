"""Attack trained models as the paper does, and write the table: PGD on each network input, pooled Dice.

For example:

    python scripts/paper_protocol.py --models plain=RESULTS/nnUNetTrainerPlain__nnUNetPlans__2d_cpu \
        ima=RESULTS/nnUNetTrainerIMA__nnUNetPlans__2d_cpu --eps 0 5 10 --reference-elements 2240 --output results/d4_2d_cpu
"""  # noqa: E501

from __future__ import annotations

import json
import platform
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from nnunet_ima.audit.paper_protocol import load_model, measure
from nnunet_ima.commands._run import run_cli
from nnunet_ima.files import write_atomically


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
    """Fold whose validation cases are attacked."""

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

    device: str = "cuda" if torch.cuda.is_available() else "cpu"
    """Where to run."""

    note: str = ""
    """A remark that goes under the table."""

    def run(self) -> None:
        """Measure what is missing, one row at a time, and write after each."""
        question = {key: getattr(self, key) for key in ("reference_elements", "fold", "norm", "steps", "every", "seed")}
        file = self.output.with_suffix(".json")
        stored = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {"question": question, "rows": []}
        if stored["question"] != question:
            msg = f"{file} answers another question ({stored['question']}); choose another --output"
            raise ValueError(msg)
        self.output.parent.mkdir(parents=True, exist_ok=True)
        for entry in self.models:
            name, _, place = entry.partition("=")  # so names hold no "="
            folder, _, checkpoint = place.partition(":")
            if not name or not folder:
                msg = f"a model is written name=results folder, got {entry!r}"
                raise ValueError(msg)
            model = load_model(Path(folder), self.fold, checkpoint or "checkpoint_final.pth", self.device)
            for eps in self.eps:
                if any(row["model"] == name and row["eps"] == eps for row in stored["rows"]):
                    continue
                row = measure(
                    model,
                    [eps],
                    self.reference_elements,
                    every=self.every,
                    norm=self.norm,
                    steps=self.steps,
                    batch_size=self.batch_size,
                    seed=self.seed,
                )[0]
                stored["rows"].append({"model": name, **row})
                device = torch.cuda.get_device_name() if self.device == "cuda" else platform.processor() or "CPU"
                stored |= {"device": device, "torch": torch.__version__, "note": self.note}
                write_atomically(file, json.dumps(stored, indent=2) + "\n")
                write_atomically(self.output.with_suffix(".md"), table(stored))
        print(table(stored))


def table(stored: dict[str, Any]) -> str:
    """Pooled Dice / mean Dice per input, one line per model, as Markdown."""
    rows, question = stored["rows"], stored["question"]
    levels = sorted({row["eps"] for row in rows})
    lines = ["| model | " + " | ".join(f"ε = {eps:g}" for eps in levels) + " |", "|---|" + "---|" * len(levels)]
    for name in dict.fromkeys(row["model"] for row in rows):
        of_model = [row for row in rows if row["model"] == name]
        cells = {row["eps"]: f"{row['pooled_dice']:.3f} / {row['sample_dice']:.3f}" for row in of_model}
        lines.append(f"| {name} | " + " | ".join(cells.get(eps, "") for eps in levels) + " |")
    lines += [
        "",
        f"Pooled Dice / mean Dice per network input. {question['norm']} noise, ε on {question['reference_elements']} "
        f"elements; PGD with {question['steps']} steps of 4ε/{question['steps']}, random start, Dice + cross-entropy; "
        f"{rows[0]['inputs']} network inputs of the validation cases of fold {question['fold']}"
        + (f" (every {question['every']}th that holds foreground)" if question["every"] > 1 else "")
        + f"; a run of its own for each ε. Device: {stored['device']}.",
    ]
    return "\n".join(lines + ([stored["note"]] if stored["note"] else [])) + "\n"


if __name__ == "__main__":
    run_cli("paper_protocol.py", PaperProtocol)
