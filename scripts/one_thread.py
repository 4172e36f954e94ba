"""Run a Python script or console script on one thread, whatever it asks of PyTorch, for figures that can be repeated.

`nnUNetv2_train -device cpu` takes as many threads as there are cores, and sums come out otherwise with each number.
For example:

    python scripts/one_thread.py .venv/bin/nnUNetv2_train 4 2d_cpu 0 -tr nnUNetTrainerIMA -device cpu
"""

from __future__ import annotations

import os
import runpy
import sys


def hold_at_one_thread() -> None:
    """Compute on one thread from now on, in this process and in those that it starts."""
    for variable in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
        os.environ[variable] = "1"  # before the libraries are loaded
    import torch

    torch.set_num_threads(1)
    torch.set_num_threads = lambda nthreads: None


if __name__ == "__main__":  # nnU-Net's worker processes import the main module again
    if len(sys.argv) < 2:
        raise SystemExit("usage: one_thread.py SCRIPT [ARGUMENTS]")
    hold_at_one_thread()
    del sys.argv[0]
    runpy.run_path(sys.argv[0], run_name="__main__")
