"""The parts of scripts/gpu.sh: what is measured on a GPU. Each ends with PART.json and PART.md among the results.

Everything happens in one process with the functions behind the commands, so that nothing has to be installed. A part
that was stopped goes on where it was: trainings from their last epoch, tables from their last row, audits from their
last unit.
"""

from __future__ import annotations

import csv
import json
import os
import platform
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from time import perf_counter
from types import FrameType
from typing import Annotated, Any, Literal

import with_trainers  # trainers are found, here and in worker processes

# isort: split
import numpy as np
import SimpleITK as sitk  # noqa: N813
import torch
import tyro
from attack_step import attack_report, measure_attack
from benchmark import Benchmark
from benchmark import report as benchmark_report
from gpu_checks import as_json, report, run_checks
from large_volumes import large_attack, large_report
from paper_protocol import PaperProtocol
from train_here import as_nnunet_trains, train_here

from nnunet_ima.commands import attack, classify, plan
from nnunet_ima.files import write_atomically
from nnunet_ima.training.scheduled import ScheduledTrainer, environment

PHANTOM = 998  # number of the generated data set
D4 = "Dataset004_Hippocampus"
REFERENCE = 2240  # elements at which D4's ε is quoted
SMALL = ["iterations_per_epoch=2", "robust_steps=1", "tau=0.01"]


@dataclass(kw_only=True)
class Part:
    """Measure one part, or go on with it."""

    name: Annotated[Literal["checks", "speed", "audit", "2d", "3d_fullres", "longer", "covid"], tyro.conf.Positional]
    """Part to measure."""

    data: Path
    """Folder that holds Task04_Hippocampus and SARS-CoV-2-CT."""

    output: Path
    """Folder of results, small enough to keep."""

    work: Path
    """Folder of data sets and models; the same one goes on."""

    device: str = "cuda"
    """Where to compute."""

    toy: bool = False
    """Generated data, hardly any training: does the script work?"""

    def run(self) -> None:
        """Measure, and write PART.json and PART.md."""
        self.output.mkdir(parents=True, exist_ok=True)
        if self.device != "cuda":
            torch.set_num_threads(1 if self.toy else torch.get_num_threads())
        begin = perf_counter()
        with _stoppable():
            text, values = {
                "checks": self._checks,
                "speed": self._speed,
                "audit": self._audit_speed,
                "2d": lambda: self._segmentation("2d"),
                "3d_fullres": lambda: self._segmentation("3d_fullres"),
                "longer": self._longer,
                "covid": self._covid,
            }[self.name]()
        facts = {
            "device": torch.cuda.get_device_name() if self.device == "cuda" else platform.processor() or "cpu",
            "date": datetime.now(timezone.utc).strftime("%Y-%m-%d %H:%M UTC"),
            "torch": torch.__version__,
            "command": f"{'TOY=1 ' if self.toy else ''}bash scripts/gpu.sh {self.name}",
            "seconds_of_last_start": round(perf_counter() - begin, 1),
        }
        heading = (
            f"## {self.name}\n\n{facts['device']}, PyTorch {facts['torch']}, {facts['date']}, "
            f"{facts['seconds_of_last_start']:.0f} s since the last start; `{facts['command']}`"
        )
        write_atomically(self.output / f"{self.name}.json", json.dumps(facts | {"results": values}, indent=2) + "\n")
        write_atomically(self.output / f"{self.name}.md", f"{heading}\n\n{text.strip()}\n\n")
        failed = [entry["name"] for entry in values if isinstance(entry, dict) and entry.get("passed") is False]
        if failed:
            raise SystemExit(f"failed: {', '.join(failed)}")

    # the parts --------------------------------------------------------------------------------------------------

    def _checks(self) -> tuple[str, Any]:
        folder = self._prepared_d4() if self.toy else self._prepared_phantom()
        names = ("2d_cpu",) if self.toy else ("2d", "3d_fullres")
        checks = run_checks(folder, names, self.device)
        return report(checks), as_json(checks)

    def _speed(self) -> tuple[str, Any]:
        """Fresh weights under a τ that they fulfil: every sample is attacked, few cross, and most steps are spent."""
        self._prepared_d4()
        _plan("nnUNetPlansSpeed", "ima", ["tau=0.001", "margin_key=case"])
        texts, found = [SPEED], []
        for compiled in (False, True) if self.device == "cuda" else (False,):
            for configuration in ("2d",) if self.toy else ("2d", "3d_fullres"):
                label = f"speed_{configuration}{'_compiled' if compiled else ''}"
                measured = self._benchmark(label, configuration, "nnUNetPlansSpeed", None, compiled)
                found.append(measured)
                texts += [f"### {configuration}{', compiled' if compiled else ''}", benchmark_report(measured)]
        return "\n\n".join(texts), found

    def _audit_speed(self) -> tuple[str, Any]:
        """An audit, an attack's step and large volumes, with a plain model that was trained for a minute."""
        self._prepared_d4()
        epochs = 1 if self.toy else 14
        model = self._train("3d_fullres", "nnUNetTrainerPlain", "nnUNetPlansShort", "plain", [f"epochs={epochs}"])
        limit, steps = (1, 1) if self.toy else (4, 50)
        command = ["--model", str(model), "--fold", "0", "--attack", "standard", "--eps", "10", "--no-tta"]
        command += ["--no-margins", "--check-cases", "0", "--steps", str(steps), "--limit", str(limit)]
        shutil.rmtree(self.work / "audit_speed", ignore_errors=True)  # what is stored would be found, not measured
        begin = perf_counter()
        attack.main([*command, "--device", self.device, "--output", str(self.work / "audit_speed")])
        hourly = limit / (perf_counter() - begin) * 3600
        step = measure_attack(model / "fold_0" / "checkpoint_final.pth", self.device)
        shapes = [(2, (32, 32, 32), 16)] if self.toy else [(2, (600, 512, 512), 128), (117, (200, 512, 512), 128)]
        volumes = [large_attack(self.device, *shape) for shape in shapes]
        text = [f"**{hourly:.0f} cases per hour**: `standard`, {steps} steps, one level, starting included.", ""]
        text += [*attack_report(step), "", *large_report(volumes)]
        return "\n".join(text), {"cases_per_hour": hourly, "step": step, "volumes": volumes}

    def _segmentation(self, configuration: str) -> tuple[str, Any]:
        plain, ima = self._trained_pair(configuration)
        table = self._paper(configuration, {"plain nnU-Net": plain, "IMA": ima})
        rows = self._audit(configuration, plain, ima)
        checkpoint = ima / "fold_0" / "checkpoint_final.pth"
        measured = self._benchmark(f"{configuration}_step", configuration, "nnUNetPlansGpuWarm", checkpoint, False)
        text = (
            f"Plain nnU-Net, then IMA from it, {self._epochs()} epochs × {2 if self.toy else 50} iterations each.\n\n"
            f"### Each network input, 100-step PGD\n\n{table}\n\n"
            f"### Through nnU-Net's inference, `--attack standard` ({configuration}_audit/report.md)\n\n"
            f"{_markdown(rows)}\n\n### A step at the margins of the trained model\n\n{benchmark_report(measured)}"
        )
        paper = json.loads((self.output / f"{configuration}_paper.json").read_text(encoding="utf-8"))
        return text, {"paper": paper["rows"], "audit": rows, "step": measured}

    def _longer(self) -> tuple[str, Any]:
        """IMA for 2.5 times as long, beside the usual length."""
        plain, ima = self._trained_pair("2d")
        epochs = round(2.5 * self._epochs())
        settings = [f"start_from={plain.name}", f"epochs={epochs}"]
        longer = self._train("2d", "nnUNetTrainerIMA", "nnUNetPlansGpuLonger", "ima", settings)
        table = self._paper("longer", {"plain nnU-Net": plain, "IMA": ima, f"IMA, {epochs} epochs": longer})
        paper = json.loads((self.output / "longer_paper.json").read_text(encoding="utf-8"))
        return table, {"paper": paper["rows"]}

    def _covid(self) -> tuple[str, Any]:
        home = self.work / "covid"
        command = ["compare", "--output", str(home), "--device", self.device]
        if self.toy:
            command += ["--data", str(_toy_images(self.work / "images")), "--methods", "ce", "ima", "--limit", "2"]
            command += ["--eps", "0.1", "--set", "size=32", "epochs=1", "batch_size=8", "robust_images=2"]
            command += ["robust_steps=1"]
        else:
            command += ["--data", str(self.data / "SARS-CoV-2-CT"), "--preset", "paper"]
            command += ["--methods", "ce", "ima", "adv10"]
        classify.main(command)
        _keep(home / "audit", self.output / "covid_audit")
        text = (home / "comparison.md").read_text(encoding="utf-8")
        return text, _rows(home / "audit" / "summary.csv")

    # what they are made of --------------------------------------------------------------------------------------

    def _epochs(self) -> int:
        return 1 if self.toy else 50

    def _configuration(self, name: str) -> str:
        return f"{name}_cpu" if self.toy else name

    def _prepared_phantom(self) -> Path:
        folder = Path(os.environ["nnUNet_preprocessed"]) / f"Dataset{PHANTOM}_Phantom"
        if not folder.is_dir():
            _prepare("phantom", "--dataset-id", str(PHANTOM))
        return folder

    def _prepared_d4(self) -> Path:
        folder = Path(os.environ["nnUNet_preprocessed"]) / D4
        if not folder.is_dir():
            if self.toy:
                like = ("--dataset-id", "4", "--dataset-name", "Hippocampus")
                _prepare("phantom", *like, "--cases", "5", "--shape", "16", "16", "8", "--processes", "1")
            else:
                _prepare("D4", "--source", str(self.data / "Task04_Hippocampus"))
        return folder

    def _trained_pair(self, configuration: str) -> tuple[Path, Path]:
        """Plain nnU-Net and IMA from it, trained if they are not yet."""
        self._prepared_d4()
        length = f"epochs={self._epochs()}"
        plain = self._train(configuration, "nnUNetTrainerPlain", "nnUNetPlansGpu", "plain", [length])
        # the plans of both configurations are the same but for what they start from
        settings = [length, f"start_from={plain.name}"]
        return plain, self._train(configuration, "nnUNetTrainerIMA", "nnUNetPlansGpuWarm", "ima", settings)

    def _train(self, configuration: str, trainer: str, plans: str, method: str, settings: list[str]) -> Path:
        """Train, or go on, or find it trained; returns the folder of results. nnU-Net's own validation is left out."""
        _plan(plans, method, [*(SMALL if self.toy else ["iterations_per_epoch=50"]), *settings])
        wanted = self._configuration(configuration)
        folder = Path(os.environ["nnUNet_results"]) / D4 / f"{trainer}__{plans}__{wanted}"
        if train_here(D4, wanted, 0, trainer, plans, folder, self.device) is None:
            return folder
        shutil.copyfile(folder / "fold_0" / "progress.png", self.output / f"{plans}_{configuration}_progress.png")
        return folder

    def _paper(self, name: str, models: dict[str, Path]) -> str:
        """Table of pooled Dice under PGD on each network input."""
        protocol = PaperProtocol(
            models=tuple(f"{label}={folder}" for label, folder in models.items()),
            eps=(0.0, 5.0) if self.toy else (0.0, 5.0, 10.0),
            reference_elements=REFERENCE,
            output=self.output / f"{name}_paper",
            steps=1 if self.toy else 100,
            every=50 if self.toy else 1,
            device=self.device,
        )
        protocol.run()
        return (self.output / f"{name}_paper.md").read_text(encoding="utf-8").strip()

    def _audit(self, configuration: str, plain: Path, ima: Path) -> list[dict[str, str]]:
        """Audit both models on some cases, with the strongest attack."""
        home = self.work / f"{configuration}_audit"
        command = ["--model", str(plain), "--model", str(ima), "--attack", "standard", "--device", self.device]
        command += ["--output", str(home)]
        if self.toy:
            command += ["--eps", "5", "--steps", "1", "--limit", "1", "--check-cases", "0", "--no-tta", "--no-margins"]
        else:
            command += ["--eps", "2", "5", "10", "--limit", "12"]
        attack.main(command)
        _keep(home, self.output / f"{configuration}_audit")
        columns = ("model", "attack", "eps", "cases", "mean_dice", "pooled_dice", "random_dice")
        return [{key: row[key] for key in columns} for row in _rows(home / "summary.csv")]

    def _benchmark(
        self, name: str, configuration: str, plans: str, checkpoint: Path | None, compiled: bool
    ) -> dict[str, Any]:
        """Seconds and memory of each kind of step; measured once."""
        file = self.output / f"{name}.json"
        if not file.is_file():
            with (
                environment(nnUNet_compile="t" if compiled else "f", nnUNet_results=os.environ["nnUNet_results"]),
                as_nnunet_trains(self.device),
            ):
                Benchmark(
                    dataset=D4,
                    configuration=self._configuration(configuration),
                    plans=plans,
                    checkpoint=checkpoint,
                    batches=1 if self.toy else 5,
                    device=self.device,
                    output=file,
                ).run()
        measured: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
        return measured


SPEED = """One optimiser step on the same batch by each of: `plain` nnU-Net; IMA with the `default` preset (4 steps, the
first on the gradient of the clean pass, samples that cross leave) and with `paper` (20 steps); and a `textbook` IMA:
20 steps and 10 bisections on the whole batch, whatever has crossed (Algorithms 1 and 3 as written, see
`scripts/benchmark.py`). Fresh weights, τ so low that they are right on all samples, margin Δ: every sample is attacked,
so these costs are high."""


def _prepare(*arguments: str) -> None:
    """In a process of its own, whose many workers need not import what this one has."""
    launcher = Path(with_trainers.__file__)
    subprocess.run([sys.executable, str(launcher), "nnunet_ima.commands.prepare:main", *arguments], check=True)


def _plan(name: str, method: str, settings: Sequence[str]) -> None:
    plan.main(["-d", "4", "--name", name, "--overwrite", "--method", method, "--set", *settings])


def _keep(folder: Path, target: Path) -> None:
    """Copy report, tables and figures of an audit."""
    target.mkdir(parents=True, exist_ok=True)
    for file in folder.iterdir():
        if file.suffix in (".md", ".csv", ".png") or file.name == "summary.json":
            shutil.copyfile(file, target / file.name)


def _rows(file: Path) -> list[dict[str, str]]:
    with file.open(encoding="utf-8", newline="") as stream:
        return list(csv.DictReader(stream))


def _markdown(rows: Sequence[dict[str, str]]) -> str:
    lines = [f"| {' | '.join(rows[0])} |", "|" + "---|" * len(rows[0])]
    return "\n".join([*lines, *(f"| {' | '.join(_short(value) for value in row.values())} |" for row in rows)])


def _short(text: str) -> str:
    try:
        return f"{float(text):.4g}"
    except ValueError:
        return text


def _toy_images(folder: Path) -> Path:
    """Slices of two classes, one of which has stripes."""
    for number in range(32):
        rng, label = np.random.default_rng(number), number % 2
        stripes = 40 * label * ((np.arange(32)[:, None] + np.arange(32)) % 2)
        file = folder / ("COVID", "other")[label] / f"{number:02d}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        sitk.WriteImage(sitk.GetImageFromArray((100 + 25 * rng.random((32, 32)) + stripes).astype(np.uint8)), str(file))
    return folder


@contextmanager
def _stoppable() -> Iterator[None]:
    """Let SIGTERM end a training after its epoch, with a checkpoint to go on from, and anything else at once."""
    stopping = training = False
    run, begin_epoch = ScheduledTrainer.run_training, ScheduledTrainer.on_epoch_start

    def stop(_: int, __: FrameType | None) -> None:
        nonlocal stopping
        stopping = True
        if not training:
            raise SystemExit(143)

    def run_training(self: ScheduledTrainer) -> None:
        nonlocal training
        training = True
        try:
            run(self)
        finally:
            training = False

    def on_epoch_start(self: ScheduledTrainer) -> None:
        """Here all of the last epoch's work is done."""
        if stopping and self.current_epoch:
            self.current_epoch -= 1  # nnU-Net stores the one that follows
            self.save_checkpoint(str(Path(self.output_folder) / "checkpoint_latest.pth"))
        if stopping:
            raise SystemExit(143)
        begin_epoch(self)

    ScheduledTrainer.run_training, ScheduledTrainer.on_epoch_start = run_training, on_epoch_start
    former = signal.signal(signal.SIGTERM, stop)
    os.register_at_fork(after_in_child=lambda: signal.signal(signal.SIGTERM, signal.SIG_DFL))  # workers just end
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, former)
        ScheduledTrainer.run_training, ScheduledTrainer.on_epoch_start = run, begin_epoch


if __name__ == "__main__":
    tyro.cli(Part, config=(tyro.conf.FlagCreatePairsOff,)).run()
