"""How long to leave a server alone that is in trouble or away."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

__all__ = ["Backoff"]

_FIRST: Final = 0.010
_LONGEST: Final = 0.140
_JITTER: Final = (0.9, 1.1)
"""Seconds, and the range of factors: fewer than ten attempts a second, and no pause longer than 0.16 s."""


class Backoff:
    """Pauses that double with each failure in a row, jittered so that processes fall out of step.

    Args:
        clock: seconds, as of the event loop.
        random: numbers from 0 to 1.
    """

    def __init__(self, clock: Callable[[], float], random: Callable[[], float]) -> None:
        self._clock = clock
        self._random = random
        self._failures = 0
        self._until = 0.0

    @property
    def is_in_a_row(self) -> bool:
        """Whether the last attempt has failed."""
        return self._failures > 0

    def failed(self) -> None:
        """Begin or lengthen the pause. The first failure of a row costs none."""
        pause = 0.0
        if self._failures:
            pause = min(_LONGEST, _FIRST * 2.0 ** min(self._failures, 16))
        self._failures += 1
        self._until = self._clock() + pause * (0.9 + 0.2 * self._random())

    def succeeded(self) -> None:
        """End the row."""
        self._failures = 0

    def remaining(self) -> float:
        """Seconds still to wait; 0 for none."""
        return max(0.0, self._until - self._clock()) if self._failures else 0.0
