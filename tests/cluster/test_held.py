"""Console scripts in the hands of a worker."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

SCRIPT = """import os, time, torch
torch.set_num_threads(8)
open({file!r}, "w").write(f"{{os.getpid()}} {{torch.get_num_threads()}}")
time.sleep(120)
"""
PARENT = "import subprocess, sys; subprocess.run([sys.executable, '-m', 'nnunet_ima.cluster.held', sys.argv[1]])"


@pytest.mark.skipif(os.name != "posix", reason="there are no process groups")
def test_on_one_thread_and_not_longer_than_the_worker(tmp_path: Path) -> None:
    script, file = tmp_path / "script.py", tmp_path / "told"
    script.write_text(SCRIPT.format(file=str(file)))
    worker = subprocess.Popen([sys.executable, "-c", PARENT, str(script)], start_new_session=True)
    try:
        until = time.monotonic() + 120
        while not (file.is_file() and file.read_text()) and time.monotonic() < until:
            time.sleep(0.1)
        process, threads = map(int, file.read_text().split())
        assert threads == 1
    finally:
        worker.send_signal(signal.SIGKILL)  # no chance to end what it has started
        worker.wait()
    until = time.monotonic() + 30
    while Path(f"/proc/{process}").exists() and time.monotonic() < until:
        time.sleep(0.1)
    with pytest.raises(ProcessLookupError):
        os.kill(process, 0)
