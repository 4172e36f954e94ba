"""What sharing costs: many workers with work that does nothing but wait, and the seconds that a unit takes besides.

    python scripts/scheduler_overhead.py --workers 64 --units 2000 --milliseconds 500

Workers are threads of this process, so that one machine can have many. Overhead per unit is the wall time beyond the
ideal one (units × milliseconds / workers), divided by the units: what the one scheduler spends on each.
"""

from __future__ import annotations

import argparse
import time

import distributed

from nnunet_ima.cluster.share import Task, share


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workers", type=int, default=64)
    parser.add_argument("--units", type=int, default=2000)
    parser.add_argument("--milliseconds", type=float, default=500.0)
    asked = parser.parse_args()
    seconds = asked.milliseconds / 1000
    with (
        distributed.LocalCluster(
            n_workers=asked.workers, threads_per_worker=1, processes=False, dashboard_address=None
        ) as cluster,
        distributed.Client(cluster) as client,
    ):
        client.wait_for_workers(asked.workers)
        list(share(client, time.sleep, [Task((seconds,))] * asked.workers))  # warms up
        begin, cpu = time.perf_counter(), time.process_time()
        done = sum(1 for _ in share(client, time.sleep, [Task((seconds,))] * asked.units))
        wall, cpu = time.perf_counter() - begin, time.process_time() - cpu
    ideal = -(-asked.units // asked.workers) * seconds
    print(
        f"{done} units of {asked.milliseconds:g} ms on {asked.workers} workers: {wall:.1f} s, ideal {ideal:.1f} s, "
        f"{1000 * (wall - ideal) / done:.2f} ms of overhead per unit ({1000 * cpu / done:.2f} ms of CPU time)"
    )


if __name__ == "__main__":
    main()
