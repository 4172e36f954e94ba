"""What `--attack race` would have saved in audits with `standard`, and lost: their attacks' traces, told again.

    python scripts/race.py AUDIT [AUDIT ...]

For each model and noise level: network steps of the race as a share of what was spent, and by how much the lowest Dice
of a case that the attacks saw would have been higher. Attacks do not know of each other, so what was stored says it.
"""

from __future__ import annotations

import sys
from pathlib import Path

import torch

from nnunet_ima.attacks.apgd import LARGE_TO_SMALL
from nnunet_ima.attacks.presets import PRESETS
from nnunet_ima.attacks.problem import Problem
from nnunet_ima.attacks.worst import Worst
from nnunet_ima.evidence.records import ComponentResult
from nnunet_ima.evidence.store import Store
from nnunet_ima.perturbation.norms import NORMS

OUTSIDE = 1 - LARGE_TO_SMALL[-1][1]  # share of the steps of such an attack that lie outside the ball


def race(trace: list[float], steps: int, begin: int, beat: float | None) -> tuple[float, int]:
    """Lowest Dice of an attack in a race, and the steps it takes, by the rule of the attacks themselves."""
    told = iter([1.0, *trace])
    problem = Problem(
        model=lambda x: x,
        x=torch.zeros(1, 1),
        y=torch.zeros(1),
        eps=torch.ones(1),
        norm=NORMS["L2"],
        quality=lambda logits, y: torch.tensor([next(told)]),
        beat=None if beat is None else torch.tensor([beat]),
    )
    worst = Worst(problem)
    for number in range(len(trace)):
        inside = number >= begin
        if not inside:
            next(told)
        worst.climb(torch.zeros(1, 1), lambda logits, *_: logits.sum(1), number / steps, competes=inside)
        if worst.done:
            return float(worst.quality), number + 1
    return float(worst.quality), len(trace)


def main() -> None:
    """Read the audits, and print a table."""
    if len(sys.argv) < 2:
        sys.exit(__doc__)
    print(
        "| model | ε | cases | steps of `standard` | of the race | ratio | Dice lost, mean | at most |\n"
        + "|---" * 8
        + "|"
    )
    for folder in map(Path, sys.argv[1:]):
        store = Store.joined(folder)
        for model in sorted((folder / "results").iterdir()):
            levels = {file.stem.split("@")[1] for file in model.glob("*/components/segpgd@*.json")}
            for level in sorted(levels, key=float):
                rows = [row for case in sorted(model.iterdir()) if (row := _case(store, model.name, case.name, level))]
                spent, raced = (sum(row[at] for row in rows) for at in (0, 1))
                lost = [row[2] for row in rows]
                print(
                    f"| {model.name} | {level} | {len(rows)} | {spent} | {raced} | {raced / spent:.2f} | "
                    f"{sum(lost) / len(lost):.4f} | {max(lost):.4f} |"
                )


def _case(store: Store, model: str, case: str, level: str) -> tuple[int, int, float] | None:
    """Steps of `standard` and of the race, and the Dice lost; None where not all five attacks ran to their end."""
    names = [component.name.removesuffix("-racing") for component in PRESETS["race"]]
    stored = [store.get(ComponentResult, model, case, "components", f"{name}@{level}") for name in names]
    found = [result for result in stored if result is not None]
    if len(found) < len(names):
        return None
    steps = max(result.trace.steps for result in found)
    lowest, raced = None, 0
    for name, result in zip(names, found, strict=True):
        begin = int(OUTSIDE * steps) if name.startswith("apgd") else 0
        dice, spent = race(list(result.trace.quality), steps, begin, lowest)
        lowest, raced = dice if lowest is None else min(lowest, dice), raced + spent
    assert lowest is not None
    true = min(min(result.trace.quality) for result in found)
    return sum(result.trace.steps for result in found), raced, max(0.0, lowest - true)


if __name__ == "__main__":
    main()
