"""Algorithm 2: the margin of every training case, updated after each epoch."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from statistics import fmean

import torch
from torch import Tensor

Visit = tuple[str, bool, float]  # case, crossed?, size of the noise found


class MarginTable:
    """Margin estimates E_i, in the unit of `delta` and `eps_max`.

    Every visit of a case on which the model was right proposes a new margin: E + Δ if the attack did not cross the
    boundary; where it did, at distance d, (E + d) / 2, or min(E, d) without damping. The mean of an epoch's proposals
    becomes the margin, clamped to [0, ε_max]. A case without such a visit keeps its margin.

    Args:
        cases: names of all training cases.
        delta: margin expansion Δ, also the first margin.
        eps_max: largest margin.
        damped: halve the correction of a crossed margin, which damps random crops and augmentation (segmentation);
            False takes it whole (classification of fixed images).
    """

    def __init__(self, cases: Iterable[str], delta: float, eps_max: float, damped: bool = True) -> None:
        self.delta = delta
        self.eps_max = eps_max
        self.damped = damped
        self.margins: dict[str, float] = {str(case): min(delta, eps_max) for case in cases}
        self.visits: list[Visit] = []

    def radius(self, cases: Sequence[str]) -> Tensor:
        """Margins (B,) of the cases of a batch; a case may repeat."""
        return torch.tensor([self.margins[str(case)] for case in cases])

    def observe(self, cases: Sequence[str], crossed: Tensor, sizes: Tensor) -> None:
        """Remember what the attack found on the samples on which the clean model was right.

        Args:
            cases: names (B,) of these samples' cases.
            crossed: booleans (B,), whether the attack crossed the boundary.
            sizes: size (B,) of the noise found, in the table's unit.
        """
        self.visits += zip(map(str, cases), crossed.tolist(), sizes.tolist(), strict=True)

    def end_epoch(self, visits: Iterable[Visit] | None = None) -> None:
        """Move the margins and forget the visits.

        Args:
            visits: the visits to use; several processes that train together pass the merged ones of all, so that
                their tables stay equal. None: this table's own.
        """
        proposals: dict[str, list[float]] = {}
        for case, crossed, size in self.visits if visits is None else visits:
            margin = self.margins[case]
            if not crossed:
                proposal = margin + self.delta
            else:
                proposal = (margin + size) / 2 if self.damped else min(margin, size)
            proposals.setdefault(case, []).append(proposal)
        for case, values in proposals.items():
            self.margins[case] = min(max(fmean(values), 0.0), self.eps_max)
        self.visits = []

    def state_dict(self) -> dict[str, float]:
        """Margins per case."""
        return dict(self.margins)

    def load_state_dict(self, margins: Mapping[str, float]) -> None:
        """Take over stored margins.

        Raises:
            ValueError: the cases are not those of this table.
        """
        if set(margins) != set(self.margins):
            odd = sorted(set(margins) ^ set(self.margins))
            msg = f"stored margins belong to other training cases; {len(odd)} differ, for example {odd[0]!r}"
            raise ValueError(msg)
        self.margins = {case: float(margins[case]) for case in self.margins}
