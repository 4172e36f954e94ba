"""Defences to compare: their plans, made or found, and what their trainings took."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

from nnunet_ima._methods import METHODS
from nnunet_ima.datasets.overlay import read_plans, write_plans

PLAIN = "nnUNetTrainerPlain__nnUNetPlans__{}"  # what all start from


@dataclass(frozen=True)
class Defence:
    """One line of a comparison.

    Attributes:
        label: as the user wrote it, such as "adv5".
        method: name in `METHODS`.
        plans: name of its plans.
        epochs: of its training; 0 for the plain model that all start from.
        folder: of its results.
    """

    label: str
    method: str
    plans: str
    epochs: int
    folder: Path

    @property
    def trainer(self) -> str:
        """Its trainer."""
        return METHODS[self.method][1]

    def cost(self, fold: int) -> str:
        """What its training took, in words, as its own log has it; "" for the model that all start from."""
        from nnunet_ima.checkpoints import load_checkpoint

        if not self.epochs:
            return ""
        file = self.folder / f"fold_{fold}" / "checkpoint_final.pth"
        log = load_checkpoint(file, way_out="train it again")["logging"]
        forward, backward, seconds = (median(log[f"ima_{key}"]) for key in ("forward", "backward", "seconds"))
        passes = f"{forward:.1f} + {backward:.1f} passes per sample"
        return f"{self.epochs} epochs, {passes}, {seconds:.2f} s per step"


@dataclass(frozen=True)
class Home:
    """Where a comparison's trainings live.

    Attributes:
        preprocessed: folder of the data set.
        results: its folder of results.
        configuration: that is trained.
        fold: that is trained.
        prefix: of the names of plans.
    """

    preprocessed: Path
    results: Path
    configuration: str
    fold: int
    prefix: str

    def start(self) -> Defence:
        """The plain model that all start from."""
        return Defence("plain", "plain", "nnUNetPlans", 0, self.results / PLAIN.format(self.configuration))

    def plan(
        self, label: str, method: str, plans: Mapping[str, Any], wanted: Mapping[str, Any], cost_on: str | None = None
    ) -> Defence:
        """Write the plans of a defence, or find those of an earlier start.

        Args:
            label: of the defence.
            method: name in `METHODS`.
            plans: to copy.
            wanted: settings that differ.
            cost_on: device to measure costs on, if the method shall have as many network passes as IMA in its epochs.

        Raises:
            ValueError: there are others of that name, or a setting is impossible.
        """
        from nnunet_ima.training.settings import change_settings, resolve_settings

        name = f"{self.prefix}{label[0].upper()}{label[1:].replace('.', 'p')}"
        wanted = {"start_from": PLAIN.format(self.configuration), **wanted}
        planned = change_settings(plans, method, wanted) | {"plans_name": name}
        if cost_on is not None and method != "ima":
            shared = {key: value for key, value in wanted.items() if key in ("start_from", "epochs")}
            epochs = self._affordable(planned, method, change_settings(plans, "ima", shared), cost_on)
            planned = change_settings(planned, method, {"epochs": epochs})
        settings = resolve_settings(planned, method)
        file = self.preprocessed / f"{name}.json"
        if not file.is_file():
            write_plans(planned, file)
        elif resolve_settings(read_plans(file), method) != settings:
            msg = f"{file} holds other settings of {label}; choose another --prefix, or remove it and its results"
            raise ValueError(msg)
        folder = self.results / f"{METHODS[method][1]}__{name}__{self.configuration}"
        return Defence(label, method, name, settings.epochs, folder)

    def _affordable(self, planned: Mapping[str, Any], method: str, ima: Mapping[str, Any], device: str) -> int:
        """Epochs that a method has for the network passes of IMA's."""
        from nnunet_ima.training.cost import measure_cost
        from nnunet_ima.training.settings import change_settings, resolve_settings

        start = {"start_from": str(self.results / PLAIN.format(self.configuration))}
        dataset_json = json.loads((self.preprocessed / "dataset.json").read_text(encoding="utf-8"))
        passes = [
            measure_cost(
                change_settings(plans, name, start) | {"plans_name": "trial"},
                self.configuration,
                self.fold,
                name,
                dataset_json,
                device,
            ).passes
            for name, plans in (("ima", ima), (method, planned))
        ]
        return max(1, round(resolve_settings(ima).epochs * passes[0] / passes[1]))
