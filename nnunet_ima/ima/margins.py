"""Algorithm 2: the margin of every training sample, updated after each epoch."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import chain
from statistics import fmean

import torch
from torch import Tensor

Sample = str | tuple[str, int]
"""Name of a sample: its case (a volume, or an image that is classified), or its case and the slice that was drawn."""

Visit = tuple[Sample, bool, float]  # sample, crossed?, size of the noise found


class MarginTable:
    """Margin estimates E_i, in the unit of `delta` and `eps_max`.

    Every visit of a sample on which the model was right proposes a new margin: E + Δ if the attack did not cross the
    boundary; where it did, at distance d, (E + d) / 2, or min(E, d) without damping. The mean of an epoch's proposals
    becomes the margin, clamped to [0, ε_max]. A sample without such a visit keeps its margin.

    Slices get a margin of their own with their first visit. Until then they have that of their case, which is the mean
    over its slices that have one.

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
        self.cases: dict[str, float] = {str(case): min(delta, eps_max) for case in cases}
        self.slices: dict[tuple[str, int], float] = {}
        self.visits: list[Visit] = []

    @property
    def margins(self) -> dict[Sample, float]:
        """Margins of all samples that have one; a case stands for its slices until one of them has."""
        visited = {case for case, _ in self.slices}
        return {name: margin for name, margin in self.state_dict().items() if name not in visited}

    def margin(self, sample: Sample) -> float:
        """Margin of a sample, or of its case."""
        if isinstance(sample, str):
            return self.cases[sample]
        return self.slices.get(sample, self.cases[sample[0]])

    def radius(self, samples: Sequence[Sample]) -> Tensor:
        """Margins (B,) of the samples of a batch; a sample may repeat."""
        return torch.tensor([self.margin(sample) for sample in samples])

    def observe(self, samples: Sequence[Sample], crossed: Tensor, sizes: Tensor) -> None:
        """Remember what the attack found on the samples on which the clean model was right.

        Args:
            samples: names (B,) of these samples.
            crossed: booleans (B,), whether the attack crossed the boundary.
            sizes: size (B,) of the noise found, in the table's unit.
        """
        self.visits += zip(samples, crossed.tolist(), sizes.tolist(), strict=True)

    def end_epoch(self, visits: Iterable[Visit] | None = None) -> None:
        """Move the margins and forget the visits.

        Args:
            visits: the visits to use; several processes that train together pass the merged ones of all, so that
                their tables stay equal. None: this table's own.
        """
        proposals: dict[Sample, list[float]] = {}
        for sample, crossed, size in self.visits if visits is None else visits:
            margin = self.margin(sample)
            if not crossed:
                proposal = margin + self.delta
            else:
                proposal = (margin + size) / 2 if self.damped else min(margin, size)
            proposals.setdefault(sample, []).append(proposal)
        for sample, values in proposals.items():
            moved = min(max(fmean(values), 0.0), self.eps_max)
            if isinstance(sample, str):
                self.cases[sample] = moved
            else:
                self.slices[sample] = moved
        self._average_slices()
        self.visits = []

    def state_dict(self) -> dict[Sample, float]:
        """Margins of all cases and slices, in one table."""
        return dict(chain[tuple[Sample, float]](self.cases.items(), self.slices.items()))

    def load_state_dict(self, margins: Mapping[Sample, float]) -> None:
        """Take over stored margins. Slices that have none begin with that of their case.

        Raises:
            ValueError: the cases are not those of this table.
        """
        stored = {name for name in margins if isinstance(name, str)}
        if stored != set(self.cases):
            odd = sorted(stored ^ set(self.cases))
            msg = f"stored margins belong to other training cases; {len(odd)} differ, for example {odd[0]!r}"
            raise ValueError(msg)
        self.cases = {case: float(margins[case]) for case in self.cases}
        self.slices = {name: float(margins[name]) for name in margins if not isinstance(name, str)}

    def _average_slices(self) -> None:
        of_case: dict[str, list[float]] = {}
        for (case, _), margin in self.slices.items():
            of_case.setdefault(case, []).append(margin)
        self.cases.update((case, fmean(margins)) for case, margins in of_case.items())
