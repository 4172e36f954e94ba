"""Kill an audit, a training or the training of a classifier again and again: does it end as if nobody had?

    python scripts/kill_test.py audit 100 --model MODEL_FOLDER --images IMAGES --labels LABELS --attack fgsm --eps 0.3
    python scripts/kill_test.py training 100 DATASET CONFIGURATION FOLD -tr nnUNetTrainerIMA -p PLANS -device cpu
    python scripts/kill_test.py classifier 100 --data IMAGES --method ima --device cpu

It runs once undisturbed. Then it is killed (SIGKILL) at a random moment and started anew where it was, until all kills
are spent; what ends before its kill begins again from nothing. Each end is compared with the undisturbed one, bit by
bit. What follows the number of kills are the arguments of nnunet-ima-attack, nnUNetv2_train and nnunet-ima-classify
fit. Plans of a training that start from a model name it by its whole path: results go to a folder of the test's own.
"""

from __future__ import annotations

import os

os.environ["OMP_NUM_THREADS"] = "1"  # the number of threads decides the last digits; and a fork must find no others
os.environ.setdefault("nnUNet_n_proc_DA", "0")

import argparse
import multiprocessing
import random
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from importlib import import_module
from multiprocessing.process import BaseProcess
from pathlib import Path
from time import perf_counter
from typing import Any

import with_trainers  # noqa: F401 - trainers are found, here and in worker processes

# isort: split
import torch
from scaling import records

# Processes are forked: what is imported before need not be imported after each kill.
FORK = multiprocessing.get_context("fork")
IMPORTED = (
    *("nnunetv2.run.run_training", "nnunet_ima.training.trainers", "nnunet_ima.report.progress"),
    *("nnunet_ima.commands.attack", "nnunet_ima.segmentation.run"),
    *("nnunet_ima.commands.classify", "nnunet_ima.classification.fit"),
)


# What is run, in a folder -------------------------------------------------------------------------------------------


def audit(home: Path, arguments: list[str]) -> None:
    """Audit into a folder."""
    from nnunet_ima.commands import attack

    attack.main(["--output", str(home), *arguments])


def training(home: Path, arguments: list[str]) -> None:
    """Train, or go on, without nnU-Net's own validation, which nothing goes on from.

    nnU-Net has read where results go when it was imported.
    """
    from nnunetv2.run.run_training import run_training_entry
    from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer

    nnUNetTrainer.perform_actual_validation = lambda *_, **__: None
    sys.argv[1:] = [*arguments, "--c"]
    run_training_entry()


def classifier(home: Path, arguments: list[str]) -> None:
    """Train a classifier into a folder."""
    from nnunet_ima.commands import classify

    classify.main(["fit", "--output", str(home), *arguments])


# What it leaves -----------------------------------------------------------------------------------------------------


def trained(folder: Path) -> dict[str, Any]:
    """Weights and state of the method of every final checkpoint."""
    contents = _loaded(folder, "checkpoint_final.pth")
    return {
        name: (content["network_weights"], content["init_args"].get("nnunet_ima", {}).get("state"))
        for name, content in contents
    }


def classified(folder: Path) -> dict[str, Any]:
    """Weights of every classifier."""
    return {name: content["weights"] for name, content in _loaded(folder, "model.pt")}


def _loaded(folder: Path, name: str) -> Iterator[tuple[str, dict[str, Any]]]:
    for file in sorted(folder.rglob(name)):
        yield str(file.relative_to(folder)), torch.load(file, map_location="cpu", weights_only=False)  # of a test's own


def same(first: Any, second: Any) -> bool:
    """Whether two values are equal, tensors in every bit."""
    if isinstance(first, torch.Tensor) and isinstance(second, torch.Tensor):
        return torch.equal(first, second)
    if isinstance(first, dict) and isinstance(second, dict):
        return first.keys() == second.keys() and all(same(first[key], second[key]) for key in first)
    if isinstance(first, (list, tuple)) and isinstance(second, (list, tuple)):
        return len(first) == len(second) and all(map(same, first, second))
    return bool(first == second)


KINDS: dict[str, tuple[Callable[[Path, list[str]], None], Callable[[Path], dict[str, Any]]]] = {
    "audit": (audit, records),
    "training": (training, trained),
    "classifier": (classifier, classified),
}


# Kills --------------------------------------------------------------------------------------------------------------


def start(kind: str, home: Path, log: Path, arguments: list[str]) -> BaseProcess:
    """Run it in a process of its own."""

    def work() -> None:
        with log.open("wb") as stream:
            os.dup2(stream.fileno(), 1)
            os.dup2(stream.fileno(), 2)
        KINDS[kind][0](home, arguments)

    home.mkdir(parents=True, exist_ok=True)
    process = FORK.Process(target=work)
    process.start()
    return process


def end(process: BaseProcess, log: Path) -> None:
    """Wait for a process that nobody kills."""
    process.join()
    if process.exitcode:
        raise SystemExit(f"{log.read_text(encoding='utf-8', errors='replace')}\nended with {process.exitcode}")


def compare(expected: dict[str, Any], found: dict[str, Any]) -> None:
    """End with an error if anything differs, or if there is nothing."""
    names = {*expected, *found}
    differing = [name for name in names if not same(expected.get(name), found.get(name))]
    if differing or not expected:
        raise SystemExit(f"they differ in {', '.join(sorted(differing))}" if differing else "there is no result")


def kill_again_and_again(kind: str, kills: int, home: Path, arguments: list[str], workers: int, slowest: float) -> str:
    """Run undisturbed, kill, compare; says how often."""
    folder, log, result = home / "results", home / "log", KINDS[kind][1]
    begin = perf_counter()
    end(start(kind, folder, log, arguments), log)
    slowest = slowest or (perf_counter() - begin) / 2  # what goes on where it was has less and less to do
    expected = result(folder)
    shutil.rmtree(folder)
    if kind == "audit" and workers:
        arguments = [*arguments, "--workers", str(workers)]
    done = ended = 0
    while done < kills:
        process = start(kind, folder, log, arguments)
        process.join(random.uniform(0, slowest))
        if process.exitcode is None:
            process.kill()
            process.join()
            done += 1
            continue
        end(process, log)
        compare(expected, result(folder))
        shutil.rmtree(folder)
        ended += 1
    end(start(kind, folder, log, arguments), log)
    compare(expected, result(folder))
    return f"{done} kills, {ended + 1} ended, all with the same end"


def main() -> None:
    """Kill, and say how it ended; the exit status is 1 if an end differs."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("kind", choices=KINDS)
    parser.add_argument("kills", type=int)
    parser.add_argument("--workers", type=int, default=2, help="of an audit that is killed; 0: none of its own (2)")
    parser.add_argument(
        "--slowest",
        type=float,
        default=0.0,
        help="latest moment of a kill, s; by default half of what it takes undisturbed",
    )
    wanted, arguments = parser.parse_known_args()
    if wanted.kills < 1 or wanted.workers < 0 or wanted.slowest < 0:
        parser.error("kills are at least 1, workers and seconds at least 0")
    with tempfile.TemporaryDirectory() as home:
        os.environ["nnUNet_results"] = str(Path(home) / "results")
        for module in IMPORTED:
            import_module(module)
        print(kill_again_and_again(wanted.kind, wanted.kills, Path(home), arguments, wanted.workers, wanted.slowest))


if __name__ == "__main__":
    main()
