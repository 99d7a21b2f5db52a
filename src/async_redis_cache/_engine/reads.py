"""Reads of keys from the server: their data, and the metadata of their values."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from typing import Any, Final, Protocol

from async_redis_cache._common.durations import CENTURY
from async_redis_cache._protocol.command import Command, Executor
from async_redis_cache._protocol.commands import (
    GET,
    GET_WITH_TTL,
    MGET,
    PTTL,
    TOUCH_RECORD,
    UNKNOWN_TTL,
)
from async_redis_cache._protocol.record import has_tags, is_record, record_of, stale_ttl_of

from .bulk import read_in_parts
from .freshness import Freshness
from .tags import Tags

__all__ = ["IsReadable", "Metadata", "PlainReads", "Reads"]

IsReadable = Callable[[bytes, bytes], Awaitable[bool]]
"""Returns whether the payload of a key can be read, as `retrieve` would."""

_WITH_TAGS: Final = 2


class Reads(Protocol):
    """Reads the data of keys; None for a key that does not exist."""

    def fetch(self, key: bytes) -> Awaitable[bytes | None]:
        """Return the data of one key."""
        ...

    async def fetch_with_source(self, key: bytes) -> tuple[bytes | None, bool]:
        """Return the data of one key, and whether it came from the near cache."""
        ...

    def fetch_many(
        self, keys: Sequence[bytes], budget: float
    ) -> Coroutine[Any, Any, list[bytes | None]]:
        """Return the data of each key, in the order of the keys, within some seconds."""
        ...


class PlainReads:
    """Reads without a near cache.

    Args:
        executor: sends the requests.
        oversized: called for each value that is too large to be read together with others.
    """

    def __init__(self, executor: Executor, oversized: Callable[[], None]) -> None:
        self._executor = executor
        self._oversized = oversized

    def fetch(self, key: bytes) -> Awaitable[bytes | None]:
        """See `Reads`."""
        return self._executor.execute(GET, key, len(key) + 16)

    async def fetch_with_source(self, key: bytes) -> tuple[bytes | None, bool]:
        """See `Reads`."""
        return await self.fetch(key), False

    def fetch_many(
        self, keys: Sequence[bytes], budget: float
    ) -> Coroutine[Any, Any, list[bytes | None]]:
        """See `Reads`."""
        return read_in_parts(
            self._executor, MGET, keys, budget=budget, absent=None, oversized=self._oversized
        )


class Metadata:
    """The operations that read or change the metadata of a value.

    Whether a value can be read depends on all of its data, so these operations fetch it.

    Args:
        executor: sends the requests.
        touch: the command that sets a TTL.
        bounded: whether the cache is bounded; then `touch` handles records as well.
        tags: of the cache.
        freshness: decides whether data is a value.
    """

    def __init__(
        self, executor: Executor, touch: Command, *, bounded: bool, tags: Tags, freshness: Freshness
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._executor = executor
        self._touch = touch
        self._bounded = bounded
        self._tags = tags
        self._freshness = freshness

    async def contains(self, key: bytes, is_readable: IsReadable) -> bool:
        """Return whether the key has a value that can be read."""
        since = self._loop.time()
        data = await self._execute(GET, key, since)
        return await self._is_value(key, data, since, is_readable)

    async def time_to_live(
        self, key: bytes, since: float, is_readable: IsReadable | None = None
    ) -> int | None:
        """Return the milliseconds until the value expires, a hundred years if it does not; None where there is none.

        Args:
            key: of the value.
            since: when the call began, in seconds of the loop's clock.
            is_readable: whether a payload is a value; None where the caller has read it.
        """
        ttl, data = UNKNOWN_TTL, b""
        if is_readable is not None:
            data, ttl = await self._execute(GET_WITH_TTL, key, since)
            if data is None or not await self._is_value(key, data, since, is_readable):
                return None
        if ttl == UNKNOWN_TTL:
            # A request for the TTL alone returns it or the error.
            ttl, data = await self._execute(PTTL, (key,), since)
            if ttl == UNKNOWN_TTL or not await self._has_value(key, data, since):
                return None
        if ttl < 0:
            return CENTURY
        if is_record(data):
            ttl = max(0, ttl - stale_ttl_of(data))
        return ttl

    async def touch(self, key: bytes, ttl: int, is_readable: IsReadable) -> bool:
        """Give the key a new TTL, in milliseconds; return whether it had a value that can be read."""
        since = self._loop.time()
        if self._bounded:
            # In one round trip. Data that is no value may get a longer TTL by this; it stays no value.
            touched, data = await self._execute(self._touch, (key, ttl), since)
            if touched == _WITH_TAGS:
                return await self._touch_tags(key, ttl, since, is_readable)
            return bool(touched) and await self._is_value(key, data, since, is_readable)
        # Read first: data that is no value, such as the lease of a load, must not expire earlier.
        data = await self._execute(GET, key, since)
        if data is None or not (
            has_tags(data) or await self._is_value(key, data, since, is_readable)
        ):
            return False
        if not is_record(data):
            touched, _ = await self._execute(self._touch, (key, ttl), since)
            return bool(touched)
        touched = await self._execute(TOUCH_RECORD, (key, ttl), since)
        if touched and has_tags(data):
            return await self._touch_tags(key, ttl, since, is_readable)
        return bool(touched)

    async def _touch_tags(
        self, key: bytes, ttl: int, since: float, is_readable: IsReadable
    ) -> bool:
        """Keep the tags of a touched value for as long as the value; return whether it is valid."""
        data = await self._execute(GET, key, since)
        record = record_of(data) if has_tags(data or b"") else None
        if record is None or not await self._freshness.tags_are_current(record, since):
            return False
        current = await self._tags.fetch_versions(
            record.tags.keys(), ttl + record.stale_ttl, self._freshness.remaining(since)
        )
        return current.versions == record.tags and await is_readable(key, record.payload)

    async def _has_value(self, key: bytes, header: bytes, since: float) -> bool:
        data: bytes | None = header
        if not header or has_tags(header):
            # The header does not contain the tags. And an empty one belongs to an empty value, or to data
            # that was removed between two commands, such as the lease of a load.
            data = await self._execute(GET, key, since)
        return await self._freshness.payload(data, since) is not None

    async def _is_value(
        self, key: bytes, data: bytes | None, since: float, is_readable: IsReadable
    ) -> bool:
        """Return whether the data is a value that can be read, and neither stale nor invalid."""
        payload = await self._freshness.payload(data, since)
        return payload is not None and await is_readable(key, payload)

    def _execute(self, command: Command, argument: Any, since: float) -> asyncio.Future[Any]:
        key = argument if isinstance(argument, bytes) else argument[0]
        return self._executor.execute(
            command, argument, len(key) + 32, budget=self._freshness.remaining(since)
        )
