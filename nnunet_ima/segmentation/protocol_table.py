"""The paper's protocol for several models, one row for each model and ε, kept in a JSON file so that it can go on."""

from __future__ import annotations

import json
import platform
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from nnunet_ima.evidence.store import sha256
from nnunet_ima.files import read_json, write_atomically
from nnunet_ima.segmentation.paper_protocol import TRAINED, load_model, measure

KINDS = {"val": "validation", "train": "training"}


@dataclass(frozen=True)
class Question:
    """What decides the numbers, besides the models.

    Attributes:
        reference_elements: elements at which ε is quoted.
        fold: whose cases are attacked.
        norm: of the noise.
        steps: of PGD.
        every: attack every n-th network input only.
        seed: of the random starts.
        losses: each is climbed by a PGD of its own, and the worst of them counts for each input.
        cases: "val", or "train": those that the model has learned from.
    """

    reference_elements: int
    fold: int = 0
    norm: str = "L2"
    steps: int = 100
    every: int = 1
    seed: int = 0
    losses: tuple[str, ...] = (TRAINED,)
    cases: str = "val"

    @classmethod
    def read(cls, stored: Mapping[str, Any]) -> Question:
        """From JSON; files of earlier releases name neither loss nor cases."""
        return cls(**{**stored, "losses": tuple(stored.get("losses", (TRAINED,)))})


class ProtocolTable:
    """Rows of a JSON file; those that it holds already are not measured again.

    Attributes:
        rows: what `measure` gives for each ε, with the name of the model.
    """

    def __init__(self, file: Path, question: Question, note: str = "") -> None:
        """Open a file, or begin one.

        Raises:
            ValueError: it is damaged, or answers another question.
        """
        self._file, self._question, self._note = file, question, note
        stored: dict[str, Any] = {"question": asdict(question), "rows": []}
        if file.is_file():
            stored = _read(file)
        if Question.read(stored["question"]) != question:
            msg = f"{file} answers another question ({stored['question']}); choose another --output"
            raise ValueError(msg)
        self.rows: list[dict[str, Any]] = stored["rows"]
        self._stored = stored

    def measure(
        self, models: Mapping[str, tuple[Path, str]], eps: Sequence[float], device: str, batch_size: int = 32
    ) -> None:
        """Measure what is missing, one row at a time, and write after each.

        Args:
            models: results folder and checkpoint by the name of the model.
            eps: noise levels.
            device: where to compute.
            batch_size: network inputs per pass.

        Raises:
            ValueError: the file holds rows of another model of that name.
        """
        question = self._question
        for name, (folder, checkpoint) in models.items():
            weights = sha256([folder / f"fold_{question.fold}" / checkpoint])
            if any(row.get("weights") != weights for row in self.rows if row["model"] == name):
                msg = f"{self._file} holds rows of another model {name}; choose another --output, or remove it"
                raise ValueError(msg)
            known = {row["eps"] for row in self.rows if row["model"] == name}
            if not (missing := [value for value in eps if value not in known]):
                continue
            model = load_model(folder, question.fold, checkpoint, device)
            for value in missing:
                row = measure(
                    model,
                    [value],
                    question.reference_elements,
                    every=question.every,
                    cases=question.cases,
                    losses=question.losses,
                    norm=question.norm,
                    steps=question.steps,
                    batch_size=batch_size,
                    seed=question.seed,
                )[0]
                self.rows.append({"model": name, "weights": weights, **row})
                self._write(device)

    def cells(self) -> dict[str, dict[float, dict[str, Any]]]:
        """Rows by model and ε."""
        models: dict[str, dict[float, dict[str, Any]]] = {}
        for row in self.rows:
            models.setdefault(row["model"], {})[row["eps"]] = row
        return models

    def markdown(self) -> str:
        """Pooled Dice / mean Dice per input, one line per model."""
        levels = sorted({row["eps"] for row in self.rows})
        lines = ["| model | " + " | ".join(f"ε = {eps:g}" for eps in levels) + " |", "|---|" + "---|" * len(levels)]
        for name, cells in self.cells().items():
            texts = {eps: f"{row['pooled_dice']:.3f} / {row['sample_dice']:.3f}" for eps, row in cells.items()}
            lines.append(f"| {name} | " + " | ".join(texts.get(eps, "") for eps in levels) + " |")
        lines += ["", self.protocol()]
        return "\n".join(lines + ([self._note] if self._note else [])) + "\n"

    def protocol(self) -> str:
        """How the numbers were made, in words."""
        question, some = self._question, self._question.every > 1
        return (
            f"Pooled Dice / mean Dice per network input. {question.norm} noise, ε on {question.reference_elements} "
            f"elements; PGD with {question.steps} steps of 4ε/{question.steps}, random start, {self._climbed()}; "
            f"{self.rows[0]['inputs']} network inputs of the {KINDS[question.cases]} cases of fold {question.fold}"
            + (f" (every {question.every}th that holds foreground)" if some else "")
            + f"; a run of its own for each ε. Device: {self._stored['device']}."
        )

    def _climbed(self) -> str:
        names = ["Dice + cross-entropy" if name == TRAINED else name for name in self._question.losses]
        return names[0] if len(names) == 1 else f"the worst of one for each loss ({', '.join(names)})"

    def _write(self, device: str) -> None:
        name = torch.cuda.get_device_name() if device.startswith("cuda") else platform.processor() or "CPU"
        self._stored |= {"rows": self.rows, "device": name, "torch": torch.__version__, "note": self._note}
        self._file.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(self._file, json.dumps(self._stored, indent=2) + "\n")
        write_atomically(self._file.with_suffix(".md"), self.markdown())


def _read(file: Path) -> dict[str, Any]:
    """What a file holds.

    Raises:
        ValueError: it is damaged.
    """
    way_out = "remove it, and all is measured again, or choose another --output"
    stored = read_json(file, damaged=way_out)
    try:
        Question.read(stored["question"])
        for row in stored["rows"]:
            if not row.keys() >= {"model", "eps", "inputs", "pooled_dice", "sample_dice"}:
                raise ValueError("a row is not complete")
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        msg = f"{file} holds no rows of the paper's protocol ({error}); {way_out}"
        raise ValueError(msg) from error
    found: dict[str, Any] = stored
    return found
