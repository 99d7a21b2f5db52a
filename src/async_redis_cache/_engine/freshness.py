"""What read data is worth: whether it is a value, fresh, and valid by its tags."""

from __future__ import annotations

import asyncio

from async_redis_cache._common.stats import CacheStats
from async_redis_cache._protocol.record import VALUE, Record, is_record, record_of

from .server_clock import ServerClock
from .tags import Tags

__all__ = ["Freshness"]


class Freshness:
    """Judges data. What it asks the server for meanwhile ends by the deadline of the call.

    A call says when it began, in seconds of the loop's clock.

    Args:
        clock: the server's.
        tags: of the cache.
        budget: seconds that a call may take in all.
        counters: where unreadable data is counted.
    """

    def __init__(self, clock: ServerClock, tags: Tags, budget: float, counters: CacheStats) -> None:
        self._loop = asyncio.get_running_loop()
        self._clock = clock
        self.known_now = clock.known
        """What time it is on the server, in milliseconds, where nobody has to be asked for that."""
        self._tags = tags
        self._budget = budget
        self._counters = counters

    def left(self, since: float) -> float:
        """Seconds that a call has left: one deadline for all that it asks."""
        return since + self._budget - self._loop.time()

    async def now(self, since: float) -> int:
        """What time it is on the server, in milliseconds.

        Raises:
            CacheError: it does not say.
        """
        return await self._clock.now(self.left(since))

    async def tags_are_current(self, record: Record, since: float) -> bool:
        """Whether none of its tags was invalidated since it was stored.

        Raises:
            CacheError: the server could not be asked.
        """
        return not record.tags or await self._tags.are_current(record.tags, self.left(since))

    async def payload(self, data: bytes | None, since: float) -> bytes | None:
        """The payload, if the data is a value, not stale, and its tags hold.

        Raises:
            CacheError: the server could not be asked.
        """
        if data is None or not is_record(data):
            return data
        record = record_of(data)
        if record is None:
            self._counters.unreadable += 1
            return None
        if record.kind != VALUE:
            return None
        now = 0 if record.is_lasting else await self.now(since)
        if not record.is_fresh(now):
            return None
        return record.payload if await self.tags_are_current(record, since) else None
