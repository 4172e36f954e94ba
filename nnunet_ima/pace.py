"""How often a training draws its curves, which takes longer than a short epoch does."""

from __future__ import annotations

from time import monotonic


class Pace:
    """Tells when it is time again.

    Attributes:
        seconds: between two times.
        last: when the last one was, or this was made; of the monotonic clock.
    """

    def __init__(self, seconds: float = 60.0) -> None:
        self.seconds, self.last = seconds, monotonic()

    def due(self, anyway: bool = False) -> bool:
        """Whether it is time; with `anyway` it is."""
        now = monotonic()
        if not anyway and now - self.last < self.seconds:
            return False
        self.last = now
        return True
