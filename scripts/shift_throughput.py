"""How fast are disturbed cases predicted, beside nnU-Net's own predictor on the same files? Ratios of one run.

    python scripts/shift_throughput.py --model MODEL_FOLDER --images IMAGES --labels LABELS --cases 4

Disturbs, preprocesses, predicts and scores each case under a few disturbances as `nnunet-ima-attack --shift` does; then
writes the same disturbed scans into a folder and lets `nnUNetPredictor.predict_from_files` predict them, with one
process for preprocessing and one for export. Prints cases per minute of both, and their ratio, for each of several
rounds.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path
from statistics import median
from time import perf_counter

import numpy as np

from nnunet_ima.evidence.engine import Engine
from nnunet_ima.evidence.store import Store
from nnunet_ima.inference.cases import Case, folder_cases
from nnunet_ima.inference.model import open_model
from nnunet_ima.inference.pipeline import Pipeline
from nnunet_ima.segmentation.case_audit import CaseAudit
from nnunet_ima.segmentation.settings import Settings, Shift
from nnunet_ima.segmentation.shifted import shifted
from nnunet_ima.shift import find_disturbance
from nnunet_ima.shift.scan_files import read_scan, write_scan

NAMES, SEVERITIES = ("rician-noise", "bias-field", "rotation", "blur"), (1, 3, 5)


def ours(pipeline: Pipeline, cases: list[Case], folder: Path) -> float:
    """Seconds for all disturbed cases, the untouched one of each included."""
    settings = Settings(
        (), (), "rms", "L2", None, None, 0, 0.5, False, 2.0, False, shift=Shift("MR", NAMES, SEVERITIES)
    )
    engine = Engine(Store(folder, {"models": {"m": 0}}, {}))
    for case in cases:
        CaseAudit("m", pipeline, case, settings, engine).clean()
    begin = perf_counter()
    for case in cases:
        assert len(list(shifted(CaseAudit("m", pipeline, case, settings, engine), settings.shift))) > 1
    return perf_counter() - begin


def theirs(pipeline: Pipeline, cases: list[Case], folder: Path) -> float:
    """Seconds of nnU-Net's own predictor for the same scans, which lie in a folder already."""
    ending = pipeline.model.dataset_json["file_ending"]
    (folder / "in").mkdir()
    for case in cases:
        scan = read_scan(case.images, case.label, "MR")
        number = 0
        for name in (None, *NAMES):
            for severity in SEVERITIES if name else (0,):
                made = scan
                if name:
                    disturbance = find_disturbance(name)
                    made = disturbance.apply(scan, disturbance.draw(severity, scan, np.random.default_rng(0)))
                files = [folder / "in" / f"{case.name}x{number}_{c:04d}{ending}" for c in range(len(made.channels))]
                write_scan(made, files, folder / f"label{ending}")
                number += 1
    predictor = pipeline.model.predictor(pipeline.step_size, pipeline.mirroring)
    begin = perf_counter()
    predictor.predict_from_files(str(folder / "in"), str(folder / "out"), False, True, 1, 1)
    return perf_counter() - begin


def main() -> None:
    """Time both in turn."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("model", "images", "labels"):
        parser.add_argument(f"--{name}", type=Path, required=True)
    parser.add_argument("--fold", default="0")
    parser.add_argument("--cases", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--device", default="cpu")
    arguments = parser.parse_args()
    model = open_model(arguments.model, (arguments.fold,), device=arguments.device)
    pipeline = Pipeline(model, mirroring=False)
    found = folder_cases(arguments.images, arguments.labels, model.channels, model.dataset_json["file_ending"])
    cases = found[:: max(1, len(found) // arguments.cases)][: arguments.cases]
    scans = len(cases) * (1 + len(NAMES) * len(SEVERITIES))
    ratios = []
    for number in range(arguments.rounds):
        with tempfile.TemporaryDirectory() as folder:
            mine = ours(pipeline, cases, Path(folder) / "ours")
            other = theirs(pipeline, cases, Path(folder))
        ratios.append(other / mine)
        print(
            f"round {number + 1}: {60 * scans / mine:.1f} disturbed, predicted and scored per minute, "
            f"{60 * scans / other:.1f} predicted by nnU-Net: {ratios[-1]:.2f} of its throughput",
            flush=True,
        )
    print(f"median {median(ratios):.2f} ({len(cases)} cases, {scans} scans, {arguments.device})")


if __name__ == "__main__":
    main()
