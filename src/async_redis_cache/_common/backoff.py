"""Exponential backoff with jitter."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

__all__ = ["LOADING_PAUSE", "Backoff", "RetryBackoff"]

_FIRST: Final = 0.020
_LONGEST: Final = 0.140
_JITTER: Final = (0.9, 1.1)
"""Seconds, and the range of factors: no pause is longer than 0.16 s, so that a server that is back is soon used."""
LOADING_PAUSE: Final = 0.170
"""Seconds at least between two attempts at a server that is loading its data, which takes long and costs more with each:
at most seven in any second and, with those of the push channel, fewer than ten."""
_SPREAD: Final = 0.2
"""By how much of it a pause that was asked for is lengthened at random, so that processes do not try all at once."""


class Backoff:
    """Pauses that double up to a limit.

    Args:
        first: seconds.
        longest: seconds.
        random: numbers from 0 to 1; without it, no jitter.
        jitter: the range of the random factor by which each pause is multiplied.
    """

    __slots__ = ("_first", "_jitter", "_longest", "_pause", "_random")

    def __init__(
        self,
        first: float,
        longest: float,
        *,
        random: Callable[[], float] | None = None,
        jitter: tuple[float, float] = (0.5, 1.0),
    ) -> None:
        self._first = self._pause = first
        self._longest = longest
        self._random = random
        self._jitter = jitter

    def next_pause(self) -> float:
        """The pause before the next attempt, in seconds; the one after it is twice as long."""
        pause = self._pause
        self._pause = min(2 * pause, self._longest)
        if self._random is None:
            return pause
        lowest, highest = self._jitter
        return pause * (lowest + (highest - lowest) * self._random())

    def reset(self) -> None:
        """Start again with the first pause."""
        self._pause = self._first


class RetryBackoff:
    """When a server that fails may be tried again: at once after the first failure in a row, then after pauses.

    Args:
        clock: seconds, as of the event loop.
        random: numbers from 0 to 1.
    """

    __slots__ = ("_backoff", "_clock", "_random", "_until", "has_failed")

    def __init__(self, clock: Callable[[], float], random: Callable[[], float]) -> None:
        self._clock = clock
        self._random = random
        self._backoff = Backoff(_FIRST, _LONGEST, random=random, jitter=_JITTER)
        self._until = 0.0
        self.has_failed = False
        """Whether the last attempt failed."""

    def failed(self, shortest: float = 0.0) -> None:
        """Begin or lengthen the pause. The first failure in a row causes none.

        Args:
            shortest: seconds that the pause has at least, the first one included. By chance it is up to a fifth longer.
        """
        pause = self._backoff.next_pause() if self.has_failed else 0.0
        if shortest:
            pause = max(pause, shortest * (1 + _SPREAD * self._random()))
        self.has_failed = True
        self._until = self._clock() + pause

    def succeeded(self) -> None:
        """End the pauses."""
        if self.has_failed:
            self.has_failed = False
            self._backoff.reset()

    def remaining(self) -> float:
        """Seconds until the next attempt; 0 if there is no need to wait."""
        return max(0.0, self._until - self._clock()) if self.has_failed else 0.0
