"""Is what two audits, trainings or classifiers have left in two folders the same, bit by bit? Part of kill_test.sh.

python scripts/same_end.py audit|training|classifier FOLDER FOLDER
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from scaling import records


def trained(folder: Path) -> dict[str, Any]:
    """Weights and state of the method of every final checkpoint."""
    contents = _loaded(folder, "checkpoint_final.pth")
    return {
        name: (content["network_weights"], content["init_args"].get("nnunet_ima", {}).get("state"))
        for name, content in contents
    }


def classified(folder: Path) -> dict[str, Any]:
    """Weights of every classifier."""
    return {name: content["weights"] for name, content in _loaded(folder, "model.pt")}


def _loaded(folder: Path, name: str) -> Iterator[tuple[str, dict[str, Any]]]:
    for file in sorted(folder.rglob(name)):
        yield str(file.relative_to(folder)), torch.load(file, map_location="cpu", weights_only=False)  # of a test's own


KINDS: dict[str, Callable[[Path], dict[str, Any]]] = {"audit": records, "training": trained, "classifier": classified}


def same(first: Any, second: Any) -> bool:
    """Whether two values are equal, tensors in every bit."""
    if isinstance(first, torch.Tensor) and isinstance(second, torch.Tensor):
        return torch.equal(first, second)
    if isinstance(first, dict) and isinstance(second, dict):
        return first.keys() == second.keys() and all(same(first[key], second[key]) for key in first)
    if isinstance(first, (list, tuple)) and isinstance(second, (list, tuple)):
        return len(first) == len(second) and all(map(same, first, second))
    return bool(first == second)


def main() -> None:
    """Compare; the exit status is 1 if anything differs, or if there is nothing."""
    kind, *folders = sys.argv[1:]
    one, other = (KINDS[kind](Path(folder)) for folder in folders)
    differing = sorted(
        name for name in {*one, *other} if name not in one or name not in other or not same(one[name], other[name])
    )
    if differing or not one:
        raise SystemExit(f"they differ in {', '.join(differing)}" if differing else f"{folders[0]} holds no result")


if __name__ == "__main__":
    main()
