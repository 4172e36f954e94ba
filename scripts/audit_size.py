"""What the size of an audit costs: peak memory and seconds from its stored records to its pages, without any model.

    python scripts/audit_size.py --cases 100 10000

For each number of cases a folder is filled with records as an audit of one model at two noise levels keeps them: eleven
for each case, of the size of real ones. Then processes of their own go on with the audit, which measures nothing as all
is stored, and write its summary, tables, figures, cards and dossier; read it as a notebook does; and write the dossier
again. Seconds are those of CPU time.
"""

from __future__ import annotations

import argparse
import json
import random
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

MODEL, LEVELS = "m", (1.0, 5.0)
QUESTION = {"attacks": ["pgd"], "settings": {}}


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", type=int, nargs="+", default=[100, 10_000])
    parser.add_argument("--child", choices=list(STEPS), help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.child:
        _step(asked.child, asked.folder, asked.cases[0])
        return
    print("| cases | records | step | peak memory, MB | of these imports | CPU seconds |\n|---|---|---|---|---|---|")
    for cases in asked.cases:
        with tempfile.TemporaryDirectory(dir=asked.folder) as folder:
            records = fill(Path(folder) / "audit", cases)
            for step in STEPS:
                command = [sys.executable, __file__, "--cases", str(cases), "--folder", f"{folder}/audit"]
                told = subprocess.run([*command, "--child", step], check=True, capture_output=True, text=True).stdout
                imports, peak, seconds = json.loads(told.splitlines()[-1])
                print(f"| {cases} | {records} | {step} | {peak:.0f} | {imports:.0f} | {seconds} |", flush=True)


def fill(folder: Path, cases: int) -> int:
    """Write an audit's records; returns their number."""
    from nnunet_ima.evidence.schema import SCHEMA
    from nnunet_ima.evidence.store import Store

    model = {"configuration": "2d", "trainer": "t", "plans": "0" * 64, "checkpoints": {"0": "0" * 64}}
    asked = {
        "models": {MODEL: model | {"step_size": 0.5, "mirroring": False}},
        "cases": {_name(it): f"{it:064x}" for it in range(cases)},
    }
    Store(folder, QUESTION | asked, {"versions": {}})
    count = 0
    for number in range(cases):
        for place, content in _records(number):
            file = folder / "results" / MODEL / _name(number) / f"{place}.json"
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(json.dumps({"schema": SCHEMA, **content}, indent=1))
            count += 1
    return count


def _name(number: int) -> str:
    return f"case_{number:06d}"


def _records(number: int) -> Iterator[tuple[str, dict[str, Any]]]:
    """The measurements of a case, as the store keeps them."""
    chance = random.Random(number)
    clean = _score(chance, 0.9)
    yield "clean", clean | _result(number, "clean", 0.0, clean["dice"])
    for eps in LEVELS:
        found, size = _score(chance, 0.9 - 0.1 * eps), {"norm": "L2", "size": eps, "l2": eps, "linf": 0.3, "rms": 0.01}
        noise = size | {"raw_rms": None}
        losses = [chance.random() for _ in range(100)]
        trace = {"steps": 100, "zero": 0, "not_finite": 0, "keeps_form": True, "loss": losses, "quality": losses}
        passes = {"passes": {"forward": 800, "backward": 400}, "seconds": 12.5}
        yield f"components/pgd@{eps:g}", found | {"noise": noise, "trace": trace} | passes
        yield f"random@{eps:g}", {"dice": clean["dice"], "kinds": {"uniform": 0.9, "gaussian": 0.9}}
        yield f"pgd@{eps:g}", found | _result(number, "pgd", eps, clean["dice"]) | {"noise": noise} | passes
        yield f"shown/pgd@{eps:g}", {}
    fell = ["Dice 0.5", "stood 1", "fell to pgd of pgd@5"]
    yield "margin", {"eps": chance.uniform(*LEVELS), "units": _units(1.0), "dice": 0.49, "given": fell}
    yield "finished", {"given": ["pgd@1", "pgd@5"]}


def _units(eps: float) -> dict[str, float | None]:
    return {"paper": eps, "l2": 2 * eps, "rms": eps / 50, "raw": None}


def _score(chance: random.Random, dice: float) -> dict[str, Any]:
    dice += chance.uniform(-0.05, 0.05)
    names = ("Anterior", "Posterior")
    bins = [[chance.randrange(9999), chance.uniform(0, 9999), chance.randrange(9999)] for _ in range(15)]
    return {
        "dice": dice,
        "dice_per_class": dict.fromkeys(names, dice),
        "overlap": {name: [chance.randrange(1, 2000) for _ in range(3)] for name in names},
        "hd95_mm": chance.uniform(1, 20),
        "hd95_mm_per_class": {name: chance.uniform(1, 20) for name in names},
        "nsd": dice,
        "nsd_per_class": dict.fromkeys(names, dice),
        "volume_error": chance.random(),
        "volume_error_per_class": {name: chance.uniform(-1, 1) for name in names},
        "missed": [],
        "confidence": {"mean": chance.random(), "entropy": chance.random(), "bins": bins},
    }


def _result(number: int, attack: str, eps: float, clean: float) -> dict[str, Any]:
    """What a result has beside its score."""
    names, attacked = ("Anterior", "Posterior"), eps > 0
    return {
        "model": MODEL,
        "case": _name(number),
        "attack": attack,
        "eps": eps,
        "units": _units(eps),
        "clean_dice": clean,
        "clean_dice_per_class": dict.fromkeys(names, clean),
        "random_dice": clean if attacked else None,
        "stored_dice": clean - 0.1 * eps if attacked else None,
        "noise": None,
        "worst_component": "pgd" if attacked else None,
        "components": {"pgd": clean - 0.1 * eps} if attacked else {},
        "passes": {"forward": 0, "backward": 0},
        "seconds": 0.0,
    }


def _step(name: str, folder: Path, cases: int) -> None:
    """Do one step in this process; the last line that it prints tells what it cost."""
    work = STEPS[name](folder, cases)
    imports = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024  # kB on Linux
    told = work()
    print(json.dumps([imports, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024, told]))


def _start(folder: Path, cases: int) -> Callable[[], str]:
    from nnunet_ima.evidence.store import Store
    from nnunet_ima.inference.cases import Case
    from nnunet_ima.report.publish import publish
    from nnunet_ima.segmentation.run import run_audit
    from nnunet_ima.segmentation.settings import Settings

    settings = Settings(("pgd",), LEVELS, "paper", "L2", 2240, None, 0, 0.5, True, 2.0, False)
    stub: Any = SimpleNamespace(model=SimpleNamespace(predictor=lambda *_: None), step_size=0.5, mirroring=False)
    every = [Case(_name(number), (), folder) for number in range(cases)]

    def work() -> str:
        begin = time.process_time()
        question = json.loads((folder / "manifest.json").read_text())["question"]
        store = Store(folder, question, {"versions": {}})
        found = run_audit({MODEL: stub}, every, settings, store, 0, {(MODEL, it.name): () for it in every})
        looked_up = time.process_time() - begin
        assert len(found.records) == 3 * cases, found.failed[:1]
        publish(found, {}, every, settings, store)
        return f"{looked_up:.1f} looking up, {time.process_time() - begin - looked_up:.1f} writing"

    return work


def _load(folder: Path, _: int) -> Callable[[], str]:
    from nnunet_ima.notebook import load_audit

    return lambda: _timed(lambda: load_audit(folder))


def _dossier(folder: Path, _: int) -> Callable[[], str]:
    from nnunet_ima.commands.report import Report
    from nnunet_ima.report import dossier, html, material, strata  # noqa: F401

    return lambda: _timed(Report(audit=folder).run)


def _timed(work: Callable[[], Any]) -> str:
    begin = time.process_time()
    work()
    return f"{time.process_time() - begin:.1f}"


STEPS: dict[str, Callable[[Path, int], Callable[[], str]]] = {
    "go on": _start,
    "load_audit": _load,
    "dossier": _dossier,
}

if __name__ == "__main__":
    main()
