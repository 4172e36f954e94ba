"""How much does each attack of an audit add? Reads the folder of an audit with several attacks, measures nothing.

    python scripts/marginal_gain.py AUDIT

For each model and noise level: the mean Dice that each attack leaves alone, and, in the order in which they help most,
that of each case's worst so far, with the passes that it took. An attack that was not run because the case was at 0
already counts as 0. Attacks on a few slices stand in it as any other: their budget is the same.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from statistics import fmean

Found = dict[str, dict[str, tuple[float, int]]]
"""Dice and passes by attack and case."""


def read(folder: Path, model: str, level: str) -> Found:
    """What single attacks found at a noise level, as an audit's results hold it."""
    found: Found = {}
    for file in sorted((folder / "results" / model).glob(f"*/components/*@{level}.json")):
        content = json.loads(file.read_text(encoding="utf-8"))
        passes = content["passes"]["forward"] + content["passes"]["backward"]
        found.setdefault(file.name.rpartition("@")[0], {})[file.parent.parent.name] = (content["dice"], passes)
    return found


def worst(found: Found, attacks: Sequence[str], cases: Sequence[str]) -> float:
    """Mean over the cases of the lowest Dice of some attacks."""
    return fmean(min(found[attack].get(case, (0.0, 0))[0] for attack in attacks) for case in cases)


def passes(found: Found, attacks: Sequence[str], cases: Sequence[str]) -> float:
    """Passes over a case, forward and backward, mean over the cases."""
    return fmean(sum(found[attack].get(case, (0.0, 0))[1] for attack in attacks) for case in cases)


def table(found: Found) -> Iterator[str]:
    """Lines of a table, the attack that helps most first."""
    cases = sorted({case for cases in found.values() for case in cases})
    yield "| attack added | alone | worst so far | gain | passes over a case, so far |"
    yield "|---|---|---|---|---|"
    chosen: list[str] = []
    before = None
    while len(chosen) < len(found):
        following = min(set(found) - set(chosen), key=lambda name: (worst(found, [*chosen, name], cases), name))
        chosen.append(following)
        now = worst(found, chosen, cases)
        gain = "" if before is None else f"{before - now:.3f}"
        alone = worst(found, [following], cases)
        yield f"| {following} | {alone:.3f} | {now:.3f} | {gain} | {passes(found, chosen, cases):,.0f} |"
        before = now


def main() -> None:
    """Print the tables of an audit."""
    folder = Path(sys.argv[1])
    for model in sorted(path.name for path in (folder / "results").iterdir()):
        files = (folder / "results" / model).glob("*/components/*@*.json")
        for level in sorted({file.stem.rpartition("@")[2] for file in files}, key=float):
            print(f"\n{model}, ε = {level}\n", *table(read(folder, model, level)), sep="\n")


if __name__ == "__main__":
    main()
