"""How often does nnunet-ima-check see a disturbance, and how often does it cry wolf?

    python scripts/detection_rates.py -d 4 --fold 0 --modality MR --cases 20

Learns from the training cases of a fold in nnUNet_raw; the validation cases, which nothing was learnt from, give the
false alarms, and under each disturbance and severity the share that is flagged. Disturbed scans are put back onto no
more grey levels than they had, as by an export: their number would betray every disturbance. Prints a table.
"""

from __future__ import annotations

import argparse

import numpy as np

from nnunet_ima.datasets.folders import find_dataset
from nnunet_ima.inference.cases import dataset_cases
from nnunet_ima.shift import DISTURBANCES
from nnunet_ima.shift.exported import exported
from nnunet_ima.shift.likeness import learn
from nnunet_ima.shift.scan_files import read_scan


def main() -> None:
    """Learn, disturb, count."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-d", "--dataset", required=True)
    parser.add_argument("--fold", default="0")
    parser.add_argument("--modality", choices=("MR", "CT", "any"), default="MR")
    parser.add_argument("--cases", type=int, default=20, help="validation cases that are disturbed")
    arguments = parser.parse_args()

    name = find_dataset(arguments.dataset)
    validation = dataset_cases(name, [arguments.fold])
    held_out = {case.name for case in validation}
    training = [
        it for it in dataset_cases(name, [arguments.fold], allow_training_cases=True) if it.name not in held_out
    ]
    likeness = learn(read_scan(case.images, None, arguments.modality) for case in training)
    scans = [read_scan(case.images, None, arguments.modality) for case in validation]
    alarms = sum(likeness.score(scan) > likeness.threshold for scan in scans)
    print(f"{likeness.scans} training scans of {name}, fold {arguments.fold}; threshold {likeness.threshold:.2f}.")
    print(f"False alarms: {alarms} of {len(scans)} validation scans ({alarms / len(scans):.1%}).\n")
    count = min(arguments.cases, len(scans))
    print(f"| share of {count} validation scans flagged | 1 | 2 | 3 | 4 | 5 | most often by |\n|---|" + "---|" * 6)
    some = [scans[number * len(scans) // count] for number in range(count)]
    for disturbance in DISTURBANCES.values():
        if any(disturbance.refusal(scan) for scan in some):
            continue
        cells, reasons = [], []
        for severity in range(1, 6):
            flagged = 0
            for number, scan in enumerate(some):
                rng = np.random.default_rng([number, 0])
                disturbed = exported(disturbance.apply(scan, disturbance.draw(severity, scan, rng)), scan)
                feature, distance = next(iter(likeness.unlike(disturbed).items()))
                if distance > likeness.threshold:
                    flagged += 1
                    reasons.append(feature)
            cells.append(f"{flagged / len(some):.2f}")
        often = max(sorted(set(reasons)), key=reasons.count) if reasons else ""
        print(f"| {disturbance.name} | {' | '.join(cells)} | {often} |", flush=True)


if __name__ == "__main__":
    main()
