"""What a verdict needs to know of an attack's course on one sample."""

from __future__ import annotations

import math

from nnunet_ima.attacks import problem
from nnunet_ima.evidence.records import Trace


def summarised(trace: problem.Trace, keeps_form: bool) -> Trace:
    """Return the course of the first sample, in six digits; `keeps_form` is that of the loss."""
    return Trace(
        steps=len(trace.loss),
        zero=int(trace.zero.sum()),
        not_finite=int(trace.not_finite.sum()),
        keeps_form=keeps_form,
        loss=rounded(trace.loss[:, 0].tolist()),
        quality=rounded(trace.quality[:, 0].tolist()),
    )


def rounded(values: list[float]) -> tuple[float, ...]:
    """The finite ones of some numbers, in six digits."""
    return tuple(float(f"{value:.6g}") for value in values if math.isfinite(value))
