"""`nnunet-ima-demo`: the whole way on generated data, from raw volumes to a table of robustness."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Sequence
from contextlib import redirect_stdout
from dataclasses import dataclass
from io import StringIO
from pathlib import Path
from time import perf_counter
from typing import Any

from nnunet_ima.commands._run import check_output, run_cli
from nnunet_ima.commands._training import run_training
from nnunet_ima.datasets.folders import VARIABLES
from nnunet_ima.datasets.overlay import read_plans, write_plans
from nnunet_ima.datasets.phantom_dataset import PhantomSettings
from nnunet_ima.datasets.prepare import prepare_phantom

PROGRAM = "nnunet-ima-demo"
CONFIGURATION = "2d_cpu"
MODELS = {"plain nnU-Net": "nnUNetTrainerPlain", "IMA": "nnUNetTrainerIMA"}
MARK = ".nnunet-ima-demo"  # says whose folder it is
FILES = ("table.md", "table.json", "demo.png", *(f"{trainer}.log" for trainer in MODELS.values()))


@dataclass(kw_only=True)
class Demo:
    """Train plain nnU-Net and IMA on phantoms, attack both, and show which one stands the noise.

    Everything happens on the CPU, in a few minutes, in one folder, through nnU-Net's own commands.
    """

    output: Path = Path("nnunet-ima-demo")
    """Folder for data, models, table and figure, new or empty; what an earlier demo left there is replaced."""

    cases: int = 20
    """Number of phantoms; a fifth of them is held out."""

    epochs: int = 10
    """Epochs of each training, of 40 iterations."""

    eps: tuple[float, ...] = (0.0, 0.1, 0.2)
    """Noise levels of the attack: RMS in standard deviations of the image."""

    steps: int = 30
    """Steps of the attack (projected gradient descent)."""

    def run(self) -> None:
        """Prepare, train, attack, show."""
        for name, value in (("--epochs", self.epochs), ("--steps", self.steps)):
            if value < 1:
                msg = f"{name} must be at least 1, got {value}"
                raise ValueError(msg)
        if not self.eps or not all(0 <= value < float("inf") for value in self.eps):
            msg = f"--eps needs noise levels of at least 0, got {self.eps}"
            raise ValueError(msg)
        begin = perf_counter()
        self._claim()
        for variable in VARIABLES:
            os.environ[variable] = str((self.output / variable).resolve())
        os.environ.setdefault("nnUNet_def_n_proc", "2")  # nnU-Net would start 8 processes to export a few small cases
        results = self._prepare()
        for model, trainer in MODELS.items():
            self._train(model, trainer)
        rows = self._attack(results)
        dossier = self._audit(results)
        text = _table(rows, self.eps)
        (self.output / "table.md").write_text(text, encoding="utf-8")
        (self.output / "table.json").write_text(json.dumps(rows, indent=2), encoding="utf-8")
        print(f"\nPooled Dice on held-out slices, {self.steps}-step PGD, L2 noise (RMS, in σ of the image):\n\n{text}")
        print(f"Table {self.output / 'table.md'}, figure {self.output / 'demo.png'}.")
        print(f"Trainings' logs and plots: {results}")
        print(f"An audit of both models to read and to look into, in any browser: {dossier}")
        print(f"Done in {perf_counter() - begin:.0f} s.")

    def _claim(self) -> None:
        """Make the folder, or refuse one that holds anything but a demo: its data set and files would be mixed in."""
        check_output(self.output)
        self.output.mkdir(parents=True, exist_ok=True)
        if not (self.output / MARK).is_file() and not _only_a_demo(self.output):
            msg = f"--output {self.output} holds other files than those of a demo; choose a new or an empty folder"
            raise ValueError(msg)
        (self.output / MARK).write_text("nnunet-ima-demo works in this folder and replaces what is in it.\n")

    def _prepare(self) -> Path:
        """Generate and preprocess the phantoms and set a short schedule; returns the folder of the results."""
        prepared = prepare_phantom(PhantomSettings(cases=self.cases), overwrite=True)
        plans = read_plans(prepared.plans)
        plans["ima"] = {"eps": max(*self.eps, 0.1), "delta": max(*self.eps, 0.1) / 4, "beta": 0.7}
        plans["schedule"] = {
            "epochs": self.epochs,
            "iterations_per_epoch": 40,
            "snapshot_interval": max(1, self.epochs // 4),
            "robust_interval": max(1, self.epochs // 4),
        }
        write_plans(plans, prepared.plans)
        warm = f"{MODELS['plain nnU-Net']}__nnUNetPlans__{CONFIGURATION}"
        plans |= {"plans_name": "nnUNetPlansWarm", "schedule": {**plans["schedule"], "start_from": warm}}
        write_plans(plans, prepared.plans.with_name("nnUNetPlansWarm.json"))
        return self.output / "nnUNet_results" / prepared.raw.name

    def _train(self, model: str, trainer: str) -> None:
        """Train one of the models."""
        plans = "nnUNetPlans" if trainer == MODELS["plain nnU-Net"] else "nnUNetPlansWarm"
        arguments = ["999", CONFIGURATION, "0", "-tr", trainer, "-p", plans, "-device", "cpu"]
        log = self.output / f"{trainer}.log"
        log.unlink(missing_ok=True)  # of an earlier demo
        run_training(arguments, log, model, self.epochs)

    def _audit(self, results: Path) -> Path:
        """Audit both models on two volumes through nnU-Net's whole inference; returns the dossier."""
        from nnunet_ima.commands.attack import Attack

        folder = self.output / "audit"
        shutil.rmtree(folder, ignore_errors=True)  # of an earlier demo
        with redirect_stdout(StringIO()):  # the dossier says it all
            Attack(
                model=tuple(self._folder(results, trainer) for trainer in MODELS.values()),
                eps=tuple(value for value in self.eps if value),
                eps_unit="rms",
                limit=2,
                steps=min(self.steps, 20),
                no_tta=True,
                no_margins=True,
                check_cases=1,
                output=folder,
                device="cpu",
            ).run()
        return folder / "dossier.html"

    def _folder(self, results: Path, trainer: str) -> Path:
        plans = "nnUNetPlans" if trainer == MODELS["plain nnU-Net"] else "nnUNetPlansWarm"
        return results / f"{trainer}__{plans}__{CONFIGURATION}"

    def _attack(self, results: Path) -> dict[str, list[dict[str, Any]]]:
        """Attack both models on the held-out slices and draw the figure."""
        from nnunet_ima.report.noise_grid import draw_noise_grid
        from nnunet_ima.segmentation import paper_protocol as protocol

        rows: dict[str, list[dict[str, Any]]] = {}
        panels: dict[str, list[tuple[str, Any, Any]]] = {}
        for model, trainer in MODELS.items():
            loaded = protocol.load_model(self._folder(results, trainer))
            inputs = protocol.network_inputs(loaded, protocol.cases_of_fold(loaded))
            shown = max(range(len(inputs)), key=lambda index: int((inputs[index][1] > 0).sum()))
            rows[model], panels[model] = [], []
            for eps in self.eps:
                images = protocol.attack_inputs(
                    loaded, inputs, eps, 1, steps=self.steps, progress=f"Attacking {model} at ε = {eps:g}"
                )
                score = protocol.score_inputs(loaded, inputs, images)
                rows[model].append({"eps": eps, "inputs": len(inputs), **score})
                predicted = protocol.predict(loaded, images[shown])
                heading = f"ε = {eps:g}: Dice {score['pooled_dice']:.2f}"
                panels[model].append((heading, images[shown][0].numpy(), predicted.numpy()))
            label = inputs[shown][1][0].numpy()
        draw_noise_grid(label, panels, self.output / "demo.png", "Held-out phantom under attack (white: true outline)")
        return rows


def _only_a_demo(folder: Path) -> bool:
    """Whether there is nothing but what a demo of release 0.1, which left no mark, has made."""
    if not {entry.name for entry in folder.iterdir()} <= {*VARIABLES, *FILES}:
        return False
    inside = (entry.name for variable in VARIABLES for entry in folder.glob(f"{variable}/*"))
    return all(name == "Dataset999_Phantom" or name.startswith(".nnunet-ima-") for name in inside)


def _table(rows: dict[str, list[dict[str, Any]]], eps: Sequence[float]) -> str:
    lines = ["| model | " + " | ".join(f"ε = {value:g}" for value in eps) + " |", "|---|" + "---|" * len(eps)]
    lines += [f"| {model} | " + " | ".join(f"{row['pooled_dice']:.3f}" for row in rows[model]) + " |" for model in rows]
    return "\n".join(lines) + "\n"


def main(argv: Sequence[str] | None = None) -> None:
    """Entry point of the console script."""
    run_cli(PROGRAM, Demo, argv)


if __name__ == "__main__":
    main()
