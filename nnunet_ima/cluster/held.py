"""Run a console script in the hands of a worker: on one CPU thread, and never longer than the worker lives.

    python -m nnunet_ima.cluster.held nnUNetv2_train 4 2d 0 -device cpu

nnU-Net takes as many threads as there are cores, which workers share; and sums depend on their number.
"""

from __future__ import annotations

import os
import runpy
import signal
import sys
import threading
import time
from pathlib import Path

LOOK = 0.5  # seconds


def end_with_parent() -> None:
    """End this process and all that it has started as soon as the one that started it is gone."""
    parent = os.getppid()

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(LOOK)
        os.killpg(os.getpgid(0), signal.SIGKILL)

    threading.Thread(target=watch, daemon=True).start()


def hold_at_one_thread() -> None:
    """Compute on one thread, whatever is asked of PyTorch."""
    import torch

    torch.set_num_threads(1)
    torch.set_num_threads = lambda _: None  # type: ignore[assignment]


if __name__ == "__main__":  # processes that nnU-Net starts import the main module again
    end_with_parent()
    hold_at_one_thread()
    del sys.argv[0]
    sys.argv[0] = str(Path(sys.executable).parent / sys.argv[0])
    runpy.run_path(sys.argv[0], run_name="__main__")
