from __future__ import annotations

import pytest

from nnunet_ima.evidence.probes import telling_level


@pytest.mark.parametrize(
    ("quality", "level"), [({1.0: 90, 3.0: 52, 5.0: 10}, 3.0), ({3.0: 80, 1.0: 90}, 3.0), ({3.0: 0, 1.0: 0}, 1.0)]
)
def test_the_telling_level_halves_the_quality(quality: dict[float, float], level: float) -> None:
    """Of levels that tell the same, the lowest."""
    assert telling_level(quality, 100) == level
