"""How much faster an audit is with more workers: the same command on a fresh folder for each number of them.

    python scripts/scaling.py --task 4 -tr nnUNetTrainerPlain -c 2d_cpu --eps 0 5 --limit 12 --steps 10 --no-tta

All options are those of nnunet-ima-attack, but for --workers and --output; `--counts 1 2 4` comes first. Printed are
the seconds of each audit, from start to end, how many times as fast as with the first number of workers it is, and
whether all records are the same.
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


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--counts", type=int, nargs="+", default=[1, 2])
    asked, options = parser.parse_known_args()
    seconds: dict[int, float] = {}
    found: dict[int, dict[str, Any]] = {}
    with tempfile.TemporaryDirectory(prefix="scaling-") as home:
        for count in asked.counts:
            folder = Path(home) / str(count)
            command = [sys.executable, "-m", "nnunet_ima.commands.attack", *options]
            begin = time.perf_counter()
            subprocess.run(
                [*command, "--workers", str(count), "--output", str(folder)], check=True, stdout=subprocess.DEVNULL
            )
            seconds[count], found[count] = time.perf_counter() - begin, records(folder)
    first = asked.counts[0]
    for count in asked.counts:
        same = "the same records" if found[count] == found[first] else "OTHER RECORDS"
        print(f"{count} workers: {seconds[count]:.1f} s, {seconds[first] / seconds[count]:.2f} times as fast, {same}")


def records(folder: Path) -> dict[str, Any]:
    """All records of an audit, but for the seconds they took."""
    return {
        str(file.relative_to(folder)): json.loads(file.read_text()) | {"seconds": None}
        for file in sorted(folder.glob("results/**/*.json"))
    }


if __name__ == "__main__":
    main()
