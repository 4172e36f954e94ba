"""What takes long is done now and then."""

from __future__ import annotations

import pytest

from nnunet_ima import pace
from nnunet_ima.pace import Pace


def test_it_is_time_after_a_while_and_anyway(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 100.0
    monkeypatch.setattr(pace, "monotonic", lambda: now)
    drawing = Pace(60)
    assert not drawing.due()
    now = 130.0
    assert drawing.due(anyway=True)
    now = 189.0
    assert not drawing.due()  # 59 s after the last one
    now = 190.0
    assert drawing.due()
    assert not drawing.due()
