"""Settings of an audit that measures nothing yet; tests replace what they look at."""

from __future__ import annotations

from nnunet_ima.segmentation.settings import Settings

BARE = Settings(
    attacks=(),
    eps=(),
    unit="rms",
    norm="L2",
    reference_elements=None,
    steps=None,
    seed=0,
    threshold=0.5,
    margins=False,
    tolerance=2.0,
    save_adversarial=False,
)
