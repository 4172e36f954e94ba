"""How unlike the training scans is a scan? Simple features, robust z-scores, and a calibrated threshold.

It looks at what a file says and at grey values, not at anatomy: spacing, field of view, orientation, histogram, noise,
sharpness, grey levels, unevenness. That is cheap, and catches exports, protocols and scanners that the model has not
seen; a scan that passes may still be unlike in what it shows.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from scipy import ndimage
from scipy.stats import median_abs_deviation

from nnunet_ima.files import read_json, write_atomically
from nnunet_ima.shift.scan import Array, Scan

FILE, SCHEMA = "nnunet_ima_likeness.json", 1
FOLDS = 5  # of the training scans, to calibrate on scans that were not looked at
LEAST = 10  # scans from which something can be learnt
FALSE_ALARMS = 0.05
# Spread below which a feature counts as constant: shares, logarithms and skewness that differ by less are alike.
FLOOR = 0.02
SMOOTH = 8.0  # voxels over which evenness is looked at

Features = dict[str, float]


@dataclass(frozen=True)
class Likeness:
    """What training scans look like.

    Attributes:
        modality: "MR", "CT" or "any".
        channels: of an image.
        median: of each feature.
        spread: of each feature: a robust standard deviation.
        orientations: of the training scans, such as "LPS".
        threshold: score above which a scan counts as unlike.
        scans: number of training scans.
    """

    modality: str
    channels: int
    median: Features
    spread: Features
    orientations: tuple[str, ...]
    threshold: float
    scans: int

    def unlike(self, scan: Scan) -> dict[str, float]:
        """Distance of each feature from the training scans' median, in spreads; the most unlike first.

        Raises:
            ValueError: the scan has another number of channels.
        """
        if len(scan.channels) != self.channels:
            msg = f"the scan has {len(scan.channels)} channels, those that were learnt from have {self.channels}"
            raise ValueError(msg)
        found = features(scan)
        far = {name: abs(found[name] - self.median[name]) / self.spread[name] for name in self.median}
        far["orientation"] = 0.0 if orientation(scan) in self.orientations else math.inf
        return dict(sorted(far.items(), key=lambda entry: -entry[1]))

    def score(self, scan: Scan) -> float:
        """Distance of the most unlike feature."""
        return max(self.unlike(scan).values())


def learn(scans: Iterable[Scan]) -> Likeness:
    """Learn what scans look like.

    The threshold is the conformal quantile of the scores of scans that were left out while the rest was learnt: a new
    scan of the same kind exceeds it with a probability of about `FALSE_ALARMS`.

    Args:
        scans: of one kind; one at a time is held in memory.

    Raises:
        ValueError: they are fewer than `LEAST`, or differ in modality or channels.
    """
    rows: list[Features] = []
    kinds, seen = set(), set()
    for scan in scans:
        rows.append(features(scan))
        kinds.add((scan.modality, len(scan.channels)))
        seen.add(orientation(scan))
    if len(rows) < LEAST:
        msg = f"at least {LEAST} scans are needed to learn from, got {len(rows)}"
        raise ValueError(msg)
    if len(kinds) > 1:
        msg = "the scans differ in modality or in the number of channels"
        raise ValueError(msg)
    ((modality, channels),) = kinds
    left_out = []
    for fold in range(FOLDS):
        rest = [row for number, row in enumerate(rows) if number % FOLDS != fold]
        median, spread = _median(rest), _spread(rest)
        left_out += [max(abs(row[name] - median[name]) / spread[name] for name in row) for row in rows[fold::FOLDS]]
    rank = min(len(rows), math.ceil((len(rows) + 1) * (1 - FALSE_ALARMS)))
    return Likeness(
        modality=modality,
        channels=channels,
        median=_median(rows),
        spread=_spread(rows),
        orientations=tuple(sorted(seen)),
        threshold=float(sorted(left_out)[rank - 1]),
        scans=len(rows),
    )


def _median(rows: Sequence[Features]) -> Features:
    return {name: float(np.median([row[name] for row in rows])) for name in rows[0]}


def _spread(rows: Sequence[Features]) -> Features:
    """Robust standard deviation of each feature, not below `FLOOR`."""
    return {
        name: max(FLOOR, float(median_abs_deviation([row[name] for row in rows], scale="normal"))) for name in rows[0]
    }


def features(scan: Scan) -> Features:
    """Features of a scan: logarithms of what has a unit, and shares of the range of grey values of what has none."""
    found: Features = {}
    across = scan.slice_axis
    for name, values in (("spacing", scan.spacing), ("extent", np.multiply(scan.shape, scan.spacing).tolist())):
        found[f"{name} across slices"] = math.log(values[across])
        found[f"{name} in the slice"] = math.log(max(values[axis] for axis in scan.in_plane))
        found[f"smaller {name} in the slice"] = math.log(min(values[axis] for axis in scan.in_plane))
    for number, channel in enumerate(scan.channels):
        of = "" if len(scan.channels) == 1 else f" of channel {number}"
        found |= {f"{name}{of}": value for name, value in _of_channel(channel, scan).items()}
    return found


def _of_channel(channel: Array, scan: Scan) -> Features:
    """Histogram, noise, sharpness, grey levels and evenness of (Z, Y, X)."""
    low, *inner, high = (float(value) for value in np.percentile(channel, (1, 10, 25, 50, 75, 90, 99)))
    width = max(high - low, 1e-6)
    found = {
        f"percentile {share}": (value - low) / width for share, value in zip((10, 25, 50, 75, 90), inner, strict=True)
    }
    if scan.modality == "CT":  # Hounsfield units mean something by themselves; a thousand of them count as one
        found |= {"percentile 1, HU": low / 1000, "percentile 99, HU": high / 1000}
    planes = np.moveaxis(channel, scan.slice_axis, 0)
    steps = [np.diff(planes, axis=axis) for axis in (1, 2) if planes.shape[axis] > 1]
    curves = [np.diff(planes, 2, axis=axis) for axis in (1, 2) if planes.shape[axis] > 2]
    noise = float(np.mean([median_abs_deviation(it, axis=None, scale="normal") for it in curves])) if curves else 0.0
    rough = math.sqrt(sum(float((it**2).mean()) for it in steps)) if steps else 0.0
    curved = math.sqrt(sum(float((it**2).mean()) for it in curves)) if curves else 0.0
    found["noise"] = math.log(noise / width + 1e-4)
    found["sharpness"] = math.log((curved + 1e-6) / (rough + 1e-6))
    found["grey levels"] = math.log(len(np.unique(channel)))
    found["share of the darkest value"] = float((channel == channel.min()).mean())
    found["share of the brightest value"] = float((channel == channel.max()).mean())
    smooth = ndimage.gaussian_filter(channel, SMOOTH)
    inside = channel > low + 0.2 * width
    bright = smooth[inside] if inside.any() else smooth
    found["unevenness"] = float(bright.std() / max(abs(float(bright.mean())), 1e-6 + 0.05 * width))
    return found


def orientation(scan: Scan) -> str:
    """Directions towards which the voxels' axes x, y and z run, such as "RAS"."""
    letters = ("LR", "PA", "IS")
    found = ""
    for axis in scan.affine[:3, :3].T:
        place = int(np.abs(axis).argmax())
        found += letters[place][int(axis[place] > 0)]
    return found


def write_likeness(likeness: Likeness, folder: Path) -> Path:
    """Write it beside a model."""
    file = folder / FILE
    write_atomically(file, json.dumps({"schema": SCHEMA, **asdict(likeness)}, indent=1) + "\n")
    return file


def read_likeness(folder: Path) -> Likeness:
    """Read what `write_likeness` wrote.

    Raises:
        FileNotFoundError: nothing has been learnt for this model.
        ValueError: the file is damaged, or of another release.
    """
    file, way_out = folder / FILE, "learn it with nnunet-ima-check --learn"
    content: Any = read_json(file, missing=way_out, damaged=way_out)
    try:
        if content.pop("schema") != SCHEMA:
            raise ValueError("another release")
        content["orientations"] = tuple(content["orientations"])
        found = Likeness(**content)
        if set(found.median) != set(found.spread) or not all(value > 0 for value in found.spread.values()):
            raise ValueError("its features have no spread")
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        msg = f"{file} is not what this release has learnt ({error}); {way_out}"
        raise ValueError(msg) from error
    return found
