"""The parts of same_numbers.sh that are not running commands: small inputs, and the comparison of all figures.

A figure is a number with a name and the entries that say what it belongs to (model, case, attack, ε, epoch), found in
JSON, CSV, logs, arrays and weights. Where a file lies and what else stands in it does not matter: both may change
between the two versions. Nothing of the package is imported, as modules may move, too.
"""

from __future__ import annotations

import csv
import json
import math
import re
import sys
from collections import defaultdict
from collections.abc import Iterable, Iterator
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK as sitk  # noqa: N813
import torch

TOLERANCE = 1e-6
COORDINATES = ("model", "method", "attack", "name", "case", "id", "split", "eps", "epoch", "seed", "class")
NO_FIGURES = re.compile(r"second|time|stamp|version|created|started|host|pid|mtime|bytes|schema|format", re.IGNORECASE)
NO_RESULTS = ("manifest.json", "training.json", "plans.json", "dataset.json", "debug.json", "splits.json")  # settings
SERIES = {
    "train_loss": r"train_loss (\S+)",
    "val_loss": r"val_loss (\S+)",
    "pseudo_dice": r"Pseudo dice (\[.*\])",
    "margin": r"\bmargin (.*); attacked",
    "attacked": r"attacked (\d+)%",
    "robust_dice": r"pseudo Dice at ε = [\d.]+: (\S+)",
    "validation_dice": r"Mean Validation Dice:\s+(\S+)",
}
NUMBER = re.compile(r"(?<![\w.])-?\d+\.?\d*(?:[eE][-+]?\d+)?")
SMALL_AUDIT = {"pgd_steps": 10, "apgd_steps": 10, "square_queries": 20, "spsa_samples": 8, "spsa_steps": 3}
# what each part of the run must have given in both versions: else nothing was compared
NEEDED = {
    "prepared data": ["array"],
    "plain": ["train_loss", "val_loss", "pseudo_dice", "validation_dice", "weights"],
    "ima": ["train_loss", "val_loss", "pseudo_dice", "validation_dice", "margin", "robust_dice", "weights"],
    "paper protocol": ["pooled_dice", "sample_dice"],
    "audit": ["mean_dice", "dice", "array"],
    "covid": ["loss", "validation_robust", "margin_mean", "accuracy", "logits", "weights"],
}
SHOWN = re.compile(r"loss|dice|margin|accuracy|validation|weights|array|logits|attacked|hd95", re.IGNORECASE)

Figures = dict[tuple[str, str], dict[str, list[float]]]
"""(part, name) to coordinates to values, in the order in which they were found."""


def prepare(output: Path) -> None:
    """Write slices of two classes, and let both versions audit classifiers with few steps."""
    for number in range(48):
        rng, label = np.random.default_rng(number), number % 2
        stripes = 40 * label * ((np.arange(32)[:, None] + np.arange(32)) % 2)
        file = output / "images" / ("COVID", "other")[label] / f"{number:02d}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        sitk.WriteImage(sitk.GetImageFromArray((100 + 25 * rng.random((32, 32)) + stripes).astype(np.uint8)), str(file))
    for side in ("before", "after"):
        file = output / side / "code" / "plans" / "covid.json"
        plan = json.loads(file.read_text(encoding="utf-8"))
        plan["presets"]["cpu"]["audit"].update(SMALL_AUDIT)
        file.write_text(json.dumps(plan), encoding="utf-8")


def figures(home: Path) -> Figures:
    """All figures that one version has made."""
    found: Figures = defaultdict(lambda: defaultdict(list))
    for file in sorted(path for path in home.rglob("*") if path.is_file()):
        part = part_of(file.relative_to(home))
        if part is None:
            continue
        for name, coordinates, value in read(file):
            if not NO_FIGURES.search(name):
                found[part, name][coordinates].append(value)
    return found


def part_of(file: Path) -> str | None:
    """The part of the run that a file belongs to, by its uppermost folders."""
    text = str(file)
    if file.name in NO_RESULTS:
        return None
    if text.startswith("preprocessed/"):
        return "prepared data" if file.name == "dataset_fingerprint.json" or file.suffix in (".b2nd", ".npz") else None
    if text.startswith("results/"):
        return "ima" if "TrainerIMA" in text else "plain"
    if text in ("plain.log", "ima.log"):
        return file.stem
    if text == "paper.json":
        return "paper protocol"
    top = file.parts[0]
    return top.replace("_", " ") if top in ("audit", "audit_real", "covid") and len(file.parts) > 1 else None


def read(file: Path) -> Iterator[tuple[str, str, float]]:
    """Names, coordinates and values of the figures of a file; of a kind that holds none, nothing."""
    place = file.stem.split("@")[0] if "results" in file.parts else ""  # attack and level are in the file's name there
    if file.suffix == ".json":
        yield from walk(json.loads(file.read_text(encoding="utf-8")), "value", (*owner(file), place))
    elif file.suffix == ".csv":
        with file.open(newline="", encoding="utf-8") as stream:
            for row in csv.DictReader(stream):
                yield from walk({key: as_number(text) for key, text in row.items()}, "value", owner(file))
    elif file.suffix == ".log":
        yield from log_lines(file)
    elif file.suffix in (".npy", ".b2nd", ".npz") or file.name.endswith(".nii.gz"):
        yield from array(file)
    elif file.suffix in (".pth", ".pt"):
        yield from weights(file)


def owner(file: Path) -> tuple[str, ...]:
    """Which of several models a file belongs to: the method's folder, the model's and the case's in an audit."""
    methods = re.compile(r"(ce|ima|adv|trades|mma|fat|gairat|ddn)|phantom_\d+|hippocampus_\d+|nnUNetTrainer.*")
    return tuple(part for part in file.parts[-5:-1] if methods.fullmatch(part))


def walk(content: Any, name: str, coordinates: tuple[str, ...]) -> Iterator[tuple[str, str, float]]:
    """Numbers of a JSON value; those of an object share the coordinates that stand in it."""
    if isinstance(content, bool | int | float):
        if math.isfinite(content):
            yield name, " ".join(sorted(filter(None, set(coordinates)))), float(content)
    elif isinstance(content, list):
        for entry in content:
            yield from walk(entry, name, coordinates)
    elif isinstance(content, dict):
        own = tuple(f"{key}={content[key]}" for key in COORDINATES if isinstance(content.get(key), str | int | float))
        for key, entry in content.items():
            if key in COORDINATES and not isinstance(entry, dict | list):
                continue
            # what is no word is a key of data, such as the name of an image or a quantile
            inner = (name, (*coordinates, *own, key)) if not key.isidentifier() else (key, (*coordinates, *own))
            yield from walk(entry, *inner)


def as_number(text: str | None) -> float | str | None:
    """A cell of a table."""
    try:
        return float(text or "")
    except ValueError:
        return text


def log_lines(file: Path) -> Iterator[tuple[str, str, float]]:
    """Losses, Dice and margins of nnU-Net's log."""
    text = file.read_text(encoding="utf-8", errors="replace")
    for name, pattern in SERIES.items():
        for line in re.findall(pattern, text):
            for number in NUMBER.findall(line.replace("np.float32(", " ")):
                yield name, "", float(number)


def array(file: Path) -> Iterator[tuple[str, str, float]]:
    """Sum and root of the squares of the values of an image or of noise."""
    if file.suffix == ".npy":
        values = [np.load(file)]
    elif file.suffix == ".npz":
        with np.load(file) as archive:
            values = [archive[key] for key in archive.files if archive[key].dtype.kind in "fiu"]
    elif file.suffix == ".b2nd":
        import blosc2

        values = [np.asarray(blosc2.open(str(file), mode="r")[:])]
    else:
        values = [sitk.GetArrayFromImage(sitk.ReadImage(str(file)))]
    for entry in values:
        yield "array", file.name, float(entry.astype(np.float64).sum())
        yield "array", file.name, float(np.linalg.norm(entry.astype(np.float64)))


def weights(file: Path) -> Iterator[tuple[str, str, float]]:
    """Norm of each tensor of a network, and the series of nnU-Net's logger."""
    content = torch.load(file, map_location="cpu", weights_only=False)  # written a moment ago by ourselves
    found = content.get("network_weights") or next(
        (entry for entry in content.values() if isinstance(entry, dict) and any(map(torch.is_tensor, entry.values()))),
        {},
    )
    for key, tensor in found.items():
        yield "weights", f"{'/'.join(file.parts[-3:])} {key}", float(tensor.double().norm())
    for key, series in content.get("logging", {}).items():
        for value in np.ravel(np.array([entry for entry in series if entry is not None], dtype=object)):
            if isinstance(value, int | float | np.floating) and file.name == "checkpoint_final.pth":
                yield f"logged {key}", "", float(value)


def differs(one: float, other: float) -> bool:
    """Whether two values are not the same figure."""
    return abs(one - other) > TOLERANCE * max(1.0, abs(one))


def moved(before: dict[str, list[float]], after: dict[str, list[float]]) -> tuple[float, float, str] | None:
    """The first figure that is not the same, before and after, and what it belongs to; or None.

    Figures of the same coordinates are compared in order; where the layout has changed, each value of before must be
    among those of after.
    """
    for coordinates, values in before.items():
        others = after.get(coordinates, [])
        pairs: Iterable[tuple[float, float]]
        if len(values) == len(others):
            pairs = zip(values, others, strict=True)
        else:
            known = np.array([value for entry in after.values() for value in entry])
            pairs = ((value, float(known[np.abs(known - value).argmin()])) for value in values)
        for one, other in pairs:
            if differs(one, other):
                return one, other, coordinates
    return None


def compare(output: Path) -> bool:
    """Print the table; returns whether all figures are the same."""
    before, after = figures(output / "before"), figures(output / "after")
    needed = [(part, name) for part, names in NEEDED.items() for name in names]
    rows, others, failed = [], 0, 0
    for key in sorted({*before, *after, *needed}):
        one, other = (list(chain.from_iterable(side.get(key, {}).values())) for side in (before, after))
        if one and other:
            difference = moved(before[key], after[key])
            *shown, where = difference or (one[-1], other[-1], "")
            verdict = f"NOT {where}".strip() if difference else "same"
        else:  # a name that came or went is worth a look, and no moved figure unless there must be one
            shown = [one[-1] if one else math.nan, other[-1] if other else math.nan]
            verdict = "NOT" if key in needed else "only before" if one else "only after"
        failed += verdict.startswith("NOT")
        if verdict != "same" or SHOWN.search(key[1]):
            rows.append((*key, str(len(one)), f"{shown[0]:.8g}", f"{shown[1]:.8g}", verdict))
        else:
            others += 1
    print_table([("what", "figure", "values", "before", "after", "verdict"), *rows])
    print(f"\nThe last of several values is shown, or the first that moved. {others} other figures are the same, too.")
    print(f"{failed} figures are NOT the same." if failed else f"All figures are the same, to {TOLERANCE:g}.")
    return not failed


def print_table(rows: list[tuple[str, ...]]) -> None:
    """Print rows in columns."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())


if __name__ == "__main__":
    verb, folder = sys.argv[1:]
    if verb == "prepare":
        prepare(Path(folder))
    else:
        sys.exit(0 if compare(Path(folder)) else 1)
