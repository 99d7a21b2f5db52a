"""Validity of stored data: whether it is a value, not stale, and has only tags that are current."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence

from async_redis_cache._common.stats import CacheStats
from async_redis_cache._protocol.record import (
    CLOCK_SLACK,
    HEADER_BYTES,
    VALUE,
    Record,
    is_record,
    record_of,
    untagged_value,
)

from .server_clock import ServerClock
from .tags import Tags

__all__ = ["Freshness"]


class Freshness:
    """Decides whether stored data is a value that may be returned.

    A call passes the time at which it began, in seconds of the loop's clock: all requests of the call share one
    deadline.

    Args:
        clock: the server's.
        tags: of the cache.
        fetch_many: returns the data of keys, in the order of the keys, within some seconds; from the near cache
            where there is one.
        command_timeout: seconds that a call may take.
        counters: count unreadable data.
    """

    def __init__(
        self,
        clock: ServerClock,
        tags: Tags,
        fetch_many: Callable[[Sequence[bytes], float], Awaitable[Sequence[bytes | None]]],
        command_timeout: float,
        counters: CacheStats,
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._clock = clock
        self.known_now = clock.known
        """The server's time in milliseconds, where it is known without a request; else None."""
        self._tags = tags
        self._fetch_many = fetch_many
        self._command_timeout = command_timeout
        self._counters = counters

    def remaining(self, since: float) -> float:
        """Return the seconds that a call has left which began at this time."""
        return since + self._command_timeout - self._loop.time()

    async def now(self, since: float) -> int:
        """Return the server's time in milliseconds.

        Raises:
            CacheError: it is not known, and the request for it failed.
        """
        return await self._clock.now(self.remaining(since))

    async def tags_are_current(self, record: Record, since: float) -> bool:
        """Return whether none of the record's tags was invalidated since it was stored.

        Raises:
            CacheError: the request for the tags failed.
        """
        versions = record.tags
        if not versions:
            return True
        current = await self._fetch_many(self._tags.keys(versions), self.remaining(since))
        return list(versions.values()) == list(current)

    async def payload(self, data: bytes | None, since: float) -> bytes | None:
        """Return the payload if the data is a value that is not stale and whose tags are current, else None.

        Raises:
            CacheError: a request for the time or the tags failed.
        """
        if data is None or not is_record(data):
            return data
        header, known_now = untagged_value(data), self.known_now()
        if header is not None and known_now is not None:
            # The common case, without a `Record`.
            _, stored_at, fresh_until, stale_ttl, _ = header
            is_fresh = stored_at - CLOCK_SLACK <= known_now < fresh_until
            return data[HEADER_BYTES:] if is_fresh or not stale_ttl else None
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
