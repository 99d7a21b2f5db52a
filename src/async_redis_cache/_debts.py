"""Changes that failed because the server was away: what they should have made old is not given again.

When the server is back, it still holds what was to be replaced or removed. So the keys are remembered;
they are removed as soon as the server takes that, and whoever reads one sooner removes it first. A removal
too many costs a miss, also where another process has stored a new value meanwhile.

A process that ends takes its memory along, and other processes do not know of it. So the one who made the
change is told by an error all the same.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Sequence
from itertools import islice
from typing import Any, Final

from ._counters import CacheStats
from ._errors import (
    CacheError,
    CacheOutcomeUnknown,
    CacheOverloaded,
    CacheTimeout,
    CacheUnavailable,
)
from ._failures import LOST

__all__ = ["Debts"]

_MOST: Final = 10_000
"""Keys that are remembered; of more, only the latest."""
_AT_ONCE: Final = 256
_FIRST_PAUSE: Final = 0.05
_LONGEST_PAUSE: Final = 0.5
"""Seconds between two attempts."""
_NOT_MADE: Final = (CacheUnavailable, CacheTimeout, CacheOverloaded, CacheOutcomeUnknown)


class Debts:
    """Keys that must not be given before they were removed.

    Args:
        remove: removes keys, within so many seconds where that is said.
        counters: where it is seen how many there are.
        random: numbers from 0 to 1.
    """

    def __init__(
        self,
        remove: Callable[[Sequence[bytes]], Awaitable[Any]],
        counters: CacheStats,
        random: Callable[[], float],
    ) -> None:
        self._remove = remove
        self._counters = counters
        self._random = random
        # By key the change that failed: another may fail while the first is made good.
        self.owed: dict[bytes, object] = {}
        self._paying: asyncio.Task[None] | None = None
        self._stopped = False

    def owe(self, keys: Iterable[bytes], failure: CacheError) -> None:
        """A change of these keys has failed."""
        if self._stopped or not isinstance(failure, _NOT_MADE):
            return
        change = object()
        for key in keys:
            self.owed.pop(key, None)
            self.owed[key] = change
        for key in tuple(islice(self.owed, max(0, len(self.owed) - _MOST))):
            del self.owed[key]
        self._counters.owed = len(self.owed)
        if self._paying is None:
            self._paying = asyncio.get_running_loop().create_task(self._until_paid())

    def settle(self, keys: Iterable[bytes]) -> None:
        """These keys are being changed anew."""
        for key in keys:
            self.owed.pop(key, None)
        self._counters.owed = len(self.owed)

    async def paid(self, keys: Iterable[bytes]) -> None:
        """Remove those that are owed, before any of them is read.

        Raises:
            CacheError: the server does not take it, so that they cannot be read.
        """
        owed = [key for key in keys if key in self.owed]
        if owed:
            try:
                await self._pay(owed)
            except CacheOutcomeUnknown:
                # To who only reads, no outcome is unknown.
                raise LOST.error() from None

    def stop(self) -> None:
        """Try no more."""
        self._stopped = True
        self._counters.owed = 0
        if self._paying is not None:
            self._paying.cancel()

    async def stopped(self) -> None:
        """Wait until nothing is left of it."""
        if self._paying is not None:
            await asyncio.wait((self._paying,))

    async def _pay(self, keys: Sequence[bytes]) -> None:
        changes = [self.owed[key] for key in keys]
        await self._remove(keys)
        for key, change in zip(keys, changes, strict=True):
            if self.owed.get(key) is change:
                del self.owed[key]
        self._counters.owed = len(self.owed)

    async def _until_paid(self) -> None:
        pause = _FIRST_PAUSE
        while self.owed:
            await asyncio.sleep(pause * (0.5 + self._random() / 2))
            try:
                await self._pay(tuple(islice(self.owed, _AT_ONCE)))
                pause = _FIRST_PAUSE
            except CacheError:
                pause = min(_LONGEST_PAUSE, 2 * pause)
        self._paying = None
