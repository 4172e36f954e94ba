"""How much faster an audit is with more workers: the same command on a fresh folder for each number of them.

    python scripts/scaling.py --task 4 -tr nnUNetTrainerPlain -c 2d_cpu --eps 0 5 --limit 12 --steps 10 --no-tta

All options are those of nnunet-ima-attack, but for --workers and --output; `--counts 1 2 4` comes first. Printed are
the seconds of each audit, from start to end, how many times as fast as with the first number of workers it is, whether
all records are the same, and how much more as many bare processes get done than the first number of them, each with a
small network of its own: cores that share their arithmetic units, or their memory, allow no more.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

BARE_SECONDS, READY = 20.0, 10.0
BARE = """
import sys, time, torch
from torch import nn
torch.set_num_threads(1)
layer = lambda c, d: nn.Sequential(nn.Conv2d(c, d, 3, padding=1), nn.InstanceNorm2d(d), nn.LeakyReLU())
network, x, steps = nn.Sequential(layer(1, 16), layer(16, 32), layer(32, 3)), torch.randn(36, 1, 56, 40), 0
begin, seconds = map(float, sys.argv[1:])
while time.time() < begin + seconds:
    z = x.clone().requires_grad_()
    network(z).square().mean().backward()
    steps += time.time() > begin
print(steps)
"""


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--counts", type=int, nargs="+", default=[1, 2])
    asked, options = parser.parse_known_args()
    seconds: dict[int, float] = {}
    found: dict[int, dict[str, Any]] = {}
    bare: dict[int, int] = {}
    with tempfile.TemporaryDirectory(prefix="scaling-") as home:
        for count in asked.counts:
            folder = Path(home) / str(count)
            command = [sys.executable, "-m", "nnunet_ima.commands.attack", *options]
            begin = time.perf_counter()
            subprocess.run(
                [*command, "--workers", str(count), "--output", str(folder)], check=True, stdout=subprocess.DEVNULL
            )
            seconds[count], found[count] = time.perf_counter() - begin, records(folder)
            bare[count] = bare_steps(count)
    first = asked.counts[0]
    for count in asked.counts:
        same = "the same records" if found[count] == found[first] else "OTHER RECORDS"
        print(
            f"{count} workers: {seconds[count]:.1f} s, {seconds[first] / seconds[count]:.2f} times as fast, {same}; "
            f"{count} bare processes do {bare[count] / bare[first]:.2f} times as much"
        )


def records(folder: Path) -> dict[str, Any]:
    """All records of an audit, but for the seconds they took."""
    return {
        str(file.relative_to(folder)): json.loads(file.read_text()) | {"seconds": None}
        for file in sorted(folder.glob("results/**/*.json"))
    }


def bare_steps(count: int) -> int:
    """Steps that so many processes do together in the same seconds, all cores to themselves."""
    command = [sys.executable, "-c", BARE, str(time.time() + READY), str(BARE_SECONDS)]
    processes = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(count)]
    return sum(int(process.communicate()[0]) for process in processes)


if __name__ == "__main__":
    main()
