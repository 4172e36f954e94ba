"""Trainings of nnU-Net's own command, watched: a progress bar instead of its long output, which goes to a log file."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tqdm import tqdm

EPOCH = "Epoch time"  # in the line that nnU-Net prints after each


def run_training(arguments: Sequence[str], log: Path, title: str, epochs: int) -> None:
    """Run nnUNetv2_train; it is ended when this process is.

    Args:
        arguments: of the command.
        log: file that its output is added to.
        title: of the progress bar.
        epochs: that it will take.

    Raises:
        ValueError: it failed; the message names the log and its last line.
    """
    with tqdm(total=epochs, desc=f"Training {title}", unit="epoch", file=sys.stderr) as bar:

        def told(line: str) -> None:
            if "Pseudo dice" in line:
                bar.set_postfix_str(f"Dice {_mean_dice(line):.3f}")
            elif EPOCH in line:
                bar.update()
            elif "Training done" in line:
                bar.set_description(f"Validating {title}")

        follow([str(Path(sys.executable).with_name("nnUNetv2_train")), *arguments], log, told)


def follow(command: Sequence[str], log: Path, told: Callable[[str], object], **options: Any) -> None:
    """Run a command, which is ended when this process is.

    Args:
        command: with its arguments.
        log: file that its output is added to.
        told: gets each line of its output.
        **options: of its process.

    Raises:
        ValueError: it failed; the message names the log and its last line.
    """
    last = ""
    with (
        log.open("a", encoding="utf-8") as file,
        subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, **options) as process,
        _ended_with_us(process),
    ):
        for line in process.stdout or ():
            file.write(line)
            file.flush()
            last = line.strip() or last
            told(line)
    if process.returncode:
        msg = f"{' '.join(command)} failed ({last}); see {log}"
        raise ValueError(msg)


@contextmanager
def _ended_with_us(process: subprocess.Popen[str]) -> Iterator[None]:
    """End a process when this one is interrupted; it would be waited for."""
    try:
        yield
    except BaseException:
        process.terminate()
        raise


def _mean_dice(line: str) -> float:
    """Mean of the numbers that nnU-Net prints as [np.float32(0.85), np.float32(0.84)]."""
    values = [float(part.split(")")[0]) for part in line.split("(")[1:]]
    return sum(values) / len(values) if values else float("nan")
