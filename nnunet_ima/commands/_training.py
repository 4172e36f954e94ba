"""Trainings of nnU-Net's own command, watched: a progress bar instead of its long output, which goes to a log file."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from tqdm import tqdm


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
    command = [str(Path(sys.executable).with_name("nnUNetv2_train")), *arguments]
    last = ""
    with (
        log.open("a", encoding="utf-8") as file,
        tqdm(total=epochs, desc=f"Training {title}", unit="epoch", file=sys.stderr) as bar,
        subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process,
        _ended_with_us(process),
    ):
        for line in process.stdout or ():
            file.write(line)
            file.flush()
            last = line.strip() or last
            if "Pseudo dice" in line:
                bar.set_postfix_str(f"Dice {_mean_dice(line):.3f}")
            elif "Epoch time" in line:
                bar.update()
            elif "Training done" in line:
                bar.set_description(f"Validating {title}")
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
