"""Train and measure many small models side by side on one device, which a single one of them would leave mostly idle.

    python scripts/side_by_side.py FILE.toml --work WORK --output OUT --at-once 12 --seconds 500

FILE.toml names data set, configuration and trainings, the most important ones first:

    dataset = "Dataset004_Hippocampus"
    configuration = "2d_cpu"
    reference_elements = 2240
    eps = [0.0, 5.0, 10.0]
    audit = ["--attack", "fast", "--eps", "5", "--limit", "12"]    # of nnunet-ima-attack; left out: no audit
    settings = { epochs = 35, start_from = "nnUNetTrainerPlain__nnUNetPlans__2d_cpu" }    # of all trainings

    [[training]]
    label = "adv5"            # letters and digits; names plans, model and rows
    method = "adv"
    fold = 1
    settings = { eps = 5 }    # its own; `audit` as well, where another one or none (`[]`) is wanted

Each is trained, its checkpoint is stripped of the optimiser's state, and it is measured by the paper's protocol, by the
worst of two PGDs (Dice + cross-entropy, balanced masked cross-entropy), and by the audit. WORK is as in gpu.sh.
`trained = "FOLDER"` in place of a training measures a model of WORK/results, such as the plain one that all start from.
What is done already is not done again; OUT gets a row file for each, a table in README.md, and archives of the models.
"""

from __future__ import annotations

import hashlib
import json
import multiprocessing
import os
import pickle
import sys
import tarfile
from dataclasses import dataclass, field
from pathlib import Path
from time import perf_counter, sleep
from typing import Any

import with_trainers  # noqa: F401 - trainers are found, here and in worker processes

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

# isort: split
import torch
import tyro
from train_here import train_here

from nnunet_ima.commands import attack
from nnunet_ima.commands._defences import Home
from nnunet_ima.datasets.overlay import read_plans
from nnunet_ima.files import atomic_file, write_atomically
from nnunet_ima.segmentation.protocol_table import ProtocolTable, Question
from nnunet_ima.training import batches as seeded
from nnunet_ima.training.trainers import nnUNetTrainerPlain  # noqa: F401 - imported before processes fork

ARCHIVE = 15 * 2**20  # bytes of the models in one archive
LOSSES = ("dice_ce", "balanced_masked_ce")


@dataclass(kw_only=True)
class SideBySide:
    """Train and measure what a file names."""

    file: tyro.conf.Positional[Path]
    """TOML file; see above."""

    work: Path
    """Folder with raw, preprocessed and results."""

    output: Path
    """Folder of results."""

    at_once: int = 12
    """Processes."""

    seconds: float = 86400
    """What is not finished by then is stopped."""

    device: str = "cuda"
    """Where to compute."""

    batches: Path | None = None
    """Folder on a fast disk that keeps training batches, which all trainings of one fold and seed share; augmentation
    would take as many cores as there are trainings."""

    def run(self) -> None:
        """Work through the file."""
        content = tomllib.loads(self.file.read_text(encoding="utf-8"))
        for name in ("raw", "preprocessed", "results"):
            os.environ[f"nnUNet_{name}"] = str(self.work / name)
        self.output.mkdir(parents=True, exist_ok=True)
        trainings = {entry["label"]: _with_defaults(entry, content) for entry in content["training"]}
        begin, fork = perf_counter(), multiprocessing.get_context("fork")  # what is imported here is there at once
        if self.batches:
            keep_batches(self.batches / content["dataset"] / content["configuration"])
        waiting = [label for label in trainings if not _finished(self.output / f"{label}.json")]
        running: dict[str, Any] = {}
        while waiting or running:
            if perf_counter() - begin > self.seconds:
                print(f"stopped: {', '.join(running)}; not begun: {', '.join(waiting)}")
                for process in running.values():
                    process.kill()
                break
            for label in [label for label, process in running.items() if process.exitcode is not None]:
                status = running.pop(label).exitcode
                print(f"{perf_counter() - begin:5.0f} s: {label} ends with {status}", flush=True)
            while waiting and len(running) < self.at_once:
                label = waiting.pop(0)
                one = One(content, trainings[label], self.output, self.device)
                running[label] = fork.Process(target=one.run)
                running[label].start()
            sleep(0.2)
        text = table(self.output, list(trainings))
        (self.output / "README.md").write_text(text, encoding="utf-8")
        print(text)
        kept = [label for label, entry in trainings.items() if entry.get("keep", True)]
        pack(self.work / "results" / content["dataset"], self.output, kept)
        if missing := [label for label in trainings if not _finished(self.output / f"{label}.json")]:
            msg = f"not finished: {', '.join(missing)}; the logs in {self.output} say why, the same command goes on"
            raise SystemExit(msg)


@dataclass
class One:
    """One training and its measurements."""

    content: dict[str, Any]
    training: dict[str, Any]
    output: Path
    device: str
    row: dict[str, Any] = field(init=False)

    def run(self) -> None:
        """Train, strip, measure; the row file grows with each."""
        with (self.output / f"{self.training['label']}.log").open("ab") as log:
            os.dup2(log.fileno(), 1)
            os.dup2(log.fileno(), 2)
        torch.set_num_threads(1)
        file = self.output / f"{self.training['label']}.json"
        self.row = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
        self.row |= {key: self.training.get(key) for key in ("label", "method", "fold", "settings")}
        self.row["device"] = torch.cuda.get_device_name(self.device) if "cuda" in self.device else "cpu"
        folder, fold = self._train(), self.training["fold"]
        begin, label = perf_counter(), self.training["label"]
        steps, every = self.training.get("steps", 100), self.training.get("every", 1)
        question = Question(self.content["reference_elements"], fold, steps=steps, every=every, losses=LOSSES)
        protocol = ProtocolTable(self.output / f"{label}_worst_of_two.json", question)
        protocol.measure({label: (folder, "checkpoint_final.pth")}, self.content["eps"], self.device, 512)
        cells = {f"{row['eps']:g}": row for row in protocol.rows}
        self.row["worst_of_two"] = {eps: row["pooled_dice"] for eps, row in cells.items()}
        # without noise nothing is climbed, and there is one number
        self.row["paper"] = {
            eps: row.get("pooled_dice_by_loss", {LOSSES[0]: row["pooled_dice"]})[LOSSES[0]]
            for eps, row in cells.items()
        }
        self._note("protocol_seconds", begin)
        if self.training.get("audit"):
            begin, home = perf_counter(), self.output / "audits" / self.training["label"]
            arguments = ["--model", str(folder), "--name", self.training["label"], "--fold", str(fold)]
            attack.main([*arguments, "--device", self.device, "--output", str(home), *self.training["audit"]])
            rows = json.loads((home / "summary.json").read_text(encoding="utf-8"))["rows"]
            kept = ("attack", "eps", "cases", "mean_dice", "interval", "pooled_dice", "random_dice")
            self.row["audit"] = [{key: row[key] for key in kept} for row in rows]
            self._note("audit_seconds", begin)
        self.row["finished"] = True
        self._note("seconds", None)

    def _train(self) -> Path:
        dataset, configuration, fold = self.content["dataset"], self.content["configuration"], self.training["fold"]
        results, home = Path(os.environ["nnUNet_results"]), Path(os.environ["nnUNet_preprocessed"]) / dataset
        settings = {
            key: value.replace("$RESULTS", str(results / dataset)) if isinstance(value, str) else value
            for key, value in self.training["settings"].items()
        }
        if self.training.get("trained"):
            return results / dataset / self.training["trained"]
        place, plans = Home(home, results / dataset, configuration, fold, "nnUNetPlansSide"), "nnUNetPlans.json"
        defence = place.plan(self.training["label"], self.training["method"], read_plans(home / plans), settings)
        begin, final = perf_counter(), defence.folder / f"fold_{fold}" / "checkpoint_final.pth"
        trainer = train_here(dataset, configuration, fold, defence.trainer, defence.plans, defence.folder, self.device)
        if trainer is None:
            return defence.folder
        log = trainer.logger.local_logger.my_fantastic_logging
        self.row["log"] = {key: values for key, values in log.items() if key.startswith("ima_") or key == "ema_fg_dice"}
        self._note("training_seconds", begin)
        stripped = torch.load(final, map_location="cpu", weights_only=False)
        with atomic_file(final) as stream:
            torch.save({**stripped, "optimizer_state": None, "grad_scaler_state": None}, stream)
        return defence.folder

    def _note(self, name: str, begin: float | None) -> None:
        if begin is not None:
            self.row[name] = round(perf_counter() - begin, 1)
        file = self.output / f"{self.training['label']}.json"
        write_atomically(file, json.dumps(self.row, indent=1, default=float) + "\n")


def keep_batches(folder: Path) -> None:
    """Look batches up in a folder before they are made; they are a function of the fold's cases, seed and number."""
    make = seeded.SeededBatches.__getitem__

    def look_up(self: Any, index: int) -> dict[str, Any]:
        made_of = [sorted(self.loader.indices), self.loader.batch_size, [int(size) for size in self.loader.patch_size]]
        cases = hashlib.sha256(json.dumps(made_of).encode()).hexdigest()[:16]
        file = folder / cases / "_".join(map(str, self.seed)) / f"{index}.pkl"
        if not file.is_file():
            file.parent.mkdir(parents=True, exist_ok=True)
            batch = make(self, index)
            with atomic_file(file) as stream:
                pickle.dump(batch, stream, protocol=5)
        return pickle.loads(file.read_bytes())

    seeded.SeededBatches.__getitem__ = look_up  # type: ignore[method-assign]


def table(output: Path, labels: list[str]) -> str:
    """All rows as Markdown."""
    rows = [json.loads(file.read_text()) for label in labels if (file := output / f"{label}.json").is_file()]
    lines = [
        "| training | fold | paper's protocol, by ε | worst of two, by ε | audit | s: training, protocol, audit |",
        "|---|---|---|---|---|---|",
    ]
    for row in rows:
        cells = [
            " / ".join(f"{value:.3f}" for value in row.get(name, {}).values()) for name in ("paper", "worst_of_two")
        ]
        audit = [f"{it['attack']}@{it['eps']:g} {it['mean_dice']:.3f}" for it in row.get("audit", [])]
        took = " ".join(str(row.get(f"{name}_seconds", "")) for name in ("training", "protocol", "audit"))
        lines.append(f"| {row['label']} | {row['fold']} | {' | '.join(cells)} | {', '.join(audit)} | {took} |")
    return "\n".join(lines) + "\n"


def pack(results: Path, output: Path, labels: list[str]) -> None:
    """Archives of what has been trained here, each small enough to be carried away."""
    plans = {f"Side{label[0].upper()}{label[1:]}__" for label in labels}
    files = sorted(results.glob("*Side*/fold_*/checkpoint_final.pth"))
    finals = [file for file in files if any(name in file.as_posix() for name in plans)]
    archives: list[list[Path]] = [[]]
    for final in finals:
        if sum(file.stat().st_size for file in archives[-1]) + final.stat().st_size > ARCHIVE:
            archives.append([])
        archives[-1].append(final)
    for number, files in enumerate(archives):
        with tarfile.open(output / f"models_{number}.tar", "w") as archive:
            for final in files:
                others = [final.with_name("ima_snapshots.json"), *final.parent.parent.glob("*.json")]
                for file in (final, *others):
                    if file.is_file():
                        archive.add(file, file.relative_to(results))
    with tarfile.open(output / "rest.tar.xz", "w:xz") as archive:
        for file in sorted(output.rglob("*")):
            if file.is_file() and file.suffix in (".json", ".md", ".log", ".csv") and "images" not in file.parts:
                archive.add(file, file.relative_to(output))


def _with_defaults(training: dict[str, Any], content: dict[str, Any]) -> dict[str, Any]:
    shared = {} if "trained" in training else content.get("settings", {})
    settings = shared | training.get("settings", {})
    return {"audit": content.get("audit")} | training | {"settings": settings}


def _finished(file: Path) -> bool:
    return file.is_file() and bool(json.loads(file.read_text(encoding="utf-8")).get("finished"))


if __name__ == "__main__":
    tyro.cli(SideBySide, config=(tyro.conf.FlagCreatePairsOff,)).run()
