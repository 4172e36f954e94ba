"""Results by groups of cases: by the size of their structures, or by whatever a CSV says of them."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np

from nnunet_ima.evidence.store import level_key
from nnunet_ima.report.document import Block, Section, Table, Text
from nnunet_ima.report.wording import interval_text
from nnunet_ima.segmentation.statistics import interval

FEW = 10  # cases, below which a mean says little


@dataclass(frozen=True)
class Strata:
    """Groups of cases: by the name of a column, the group of each case."""

    columns: Mapping[str, Mapping[str, str]]


def read_strata(file: Path) -> Strata:
    """Read a CSV with a column `case` and any others, such as site, scanner, sex, age band.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it has no column `case` or no other, or names a case twice.
    """
    if not file.is_file():
        msg = f"{file} does not exist; it is a CSV with the column case and others such as site or scanner"
        raise FileNotFoundError(msg)
    try:
        with file.open(encoding="utf-8-sig", newline="") as stream:
            reader = csv.DictReader(stream)
            names = [name for name in reader.fieldnames or () if name and name != "case"]
            rows = list(reader)
            if "case" not in (reader.fieldnames or ()) or not names:
                msg = f"{file} needs the column case and at least one other, such as site, separated by commas"
                raise ValueError(msg)
    except (UnicodeDecodeError, csv.Error) as error:
        msg = f"{file} is no CSV file in UTF-8 ({error})"
        raise ValueError(msg) from error
    known: set[str] = set()
    for row in rows:
        if row["case"] in known:
            msg = f"{file} names the case {row['case']!r} twice; keep one of the lines"
            raise ValueError(msg)
        known.add(row["case"])
    return Strata({name: {row["case"]: (row[name] or "not provided").strip() for row in rows} for name in names})


def by_size(cases: Sequence[Mapping[str, Any]]) -> Strata:
    """Thirds of the cases by the number of voxels of their true structures."""
    voxels: dict[str, int] = {}
    for row in cases:
        voxels[row["case"]] = sum(counts[0] + counts[2] for counts in row["overlap"].values())
    if len(voxels) < 3:
        return Strata({"size of the structures": dict.fromkeys(voxels, "all")})
    low, high = (float(np.quantile(list(voxels.values()), share)) for share in (1 / 3, 2 / 3))

    def third(count: int) -> str:
        if count <= low:
            return f"small (up to {low:.0f} voxels)"
        return f"large (above {high:.0f} voxels)" if count > high else "medium"

    return Strata({"size of the structures": {case: third(count) for case, count in voxels.items()}})


def strata_section(cases: Sequence[Mapping[str, Any]], strata: Strata | None) -> Section:
    """Mean Dice of each group, model and ε under the worst attack on each case, with 95 % intervals."""
    strata = strata or by_size(cases)
    worst: dict[tuple[str, float, str], float] = {}
    for row in cases:
        place = row["model"], row["eps"], row["case"]
        worst[place] = min(row["dice"], worst.get(place, 1.0))
    models = list(dict.fromkeys(model for model, _, _ in worst))
    levels = sorted({eps for _, eps, _ in worst})
    known = {case for _, _, case in worst}
    blocks: list[Block] = []
    few: set[str] = set()
    for column, groups in strata.columns.items():
        rows = []
        members: dict[str, list[str]] = {}
        for case in sorted(known):
            members.setdefault(groups.get(case, "not provided"), []).append(case)
        for group, inside in members.items():
            few |= {f"{column} {group}"} if len(inside) < FEW else set()
            for model in models:
                cells = [group, model, str(len(inside))]
                for eps in levels:
                    dice = [worst[model, eps, case] for case in inside if (model, eps, case) in worst]
                    cells.append(f"{fmean(dice):.3f}{interval_text(interval(dice))}" if dice else "–")
                rows.append(tuple(cells))
        head = (column, "model", "cases", *(f"Dice at ε = {level_key(eps)} [95 %]" for eps in levels))
        blocks.append(Table(head, tuple(rows)))
    if few:
        told = f"Fewer than {FEW} cases, which say little: {', '.join(sorted(few))}."
        blocks.append(Text(told, "warning"))
    return Section("Strata", tuple(blocks), "strata")
