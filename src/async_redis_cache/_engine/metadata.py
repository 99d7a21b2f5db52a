"""The verbs that say of a value whether it is there, how long, and for how long more."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, Final

from async_redis_cache._protocol.command import Command, Executor
from async_redis_cache._protocol.commands import GET, GET_WITH_TTL, PTTL, TOUCH_RECORD, UNKNOWN_TTL
from async_redis_cache._protocol.record import has_tags, is_record, record_of, stale_ttl_of

from .freshness import Freshness
from .tags import Tags

__all__ = ["IsReadable", "Metadata"]

IsReadable = Callable[[bytes, bytes], Awaitable[bool]]
"""Whether a payload under a key is a value, as `retrieve` would say."""

_WITH_TAGS: Final = 2


class Metadata:
    """Asks about values. Whether one can be read only the whole of it tells, so it is fetched for that.

    Args:
        batcher: asks the server.
        touch: the verb that gives a new life.
        bounded: whether that says of records too all that there is to say.
        tags: of the cache.
        freshness: judges.
    """

    def __init__(
        self, batcher: Executor, touch: Command, *, bounded: bool, tags: Tags, freshness: Freshness
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._batcher = batcher
        self._touch = touch
        self._bounded = bounded
        self._tags = tags
        self._freshness = freshness

    async def contains(self, key: bytes, is_readable: IsReadable) -> bool:
        """Whether the key has a value: it is read, as only the whole of it tells that."""
        since = self._loop.time()
        data = await self._ask(GET, key, since)
        return await self._is_value(key, data, since, is_readable)

    async def time_to_live(
        self, key: bytes, since: float, is_readable: IsReadable | None = None
    ) -> int | None:
        """Milliseconds that its value has left; None when there is none or it never expires.

        Args:
            key: of the value.
            since: when the call began.
            is_readable: whether a payload is a value; None where that is known.
        """
        left, data = UNKNOWN_TTL, b""
        if is_readable is not None:
            data, left = await self._ask(GET_WITH_TTL, key, since)
            if data is None or not await self._is_value(key, data, since, is_readable):
                return None
        if left == UNKNOWN_TTL:
            # Asked for by itself, it is told, or the error is.
            left, data = await self._ask(PTTL, (key,), since)
            if left == UNKNOWN_TTL or not await self._is_there(key, data, since):
                return None
        if is_record(data):
            left = max(0, left - stale_ttl_of(data))
        return left if left >= 0 else None

    async def touch(self, key: bytes, life: int, is_readable: IsReadable) -> bool:
        """Give the key a new life, in milliseconds; whether it had a value."""
        since = self._loop.time()
        if self._bounded:
            # In one round trip: what is no value may live longer by this, and stays none.
            touched, data = await self._ask(self._touch, (key, life), since)
            if touched == _WITH_TAGS:
                return await self._retagged(key, life, since, is_readable)
            return bool(touched) and await self._is_value(key, data, since, is_readable)
        # Looked at first: what is no value, such as somebody's right to load, must not end sooner.
        data = await self._ask(GET, key, since)
        if data is None or not (
            has_tags(data) or await self._is_value(key, data, since, is_readable)
        ):
            return False
        if not is_record(data):
            touched, _ = await self._ask(self._touch, (key, life), since)
            return bool(touched)
        touched = await self._ask(TOUCH_RECORD, (key, life), since)
        if touched and has_tags(data):
            return await self._retagged(key, life, since, is_readable)
        return bool(touched)

    async def _retagged(self, key: bytes, life: int, since: float, is_readable: IsReadable) -> bool:
        """Let the tags of a key live with it; whether it is valid."""
        data = await self._ask(GET, key, since)
        record = record_of(data) if has_tags(data or b"") else None
        if record is None or not await self._freshness.tags_are_current(record, since):
            return False
        stays = life + record.stale_ttl
        stamp = await self._tags.fetch_versions(
            record.tags.keys(), stays, self._freshness.remaining(since)
        )
        return stamp.versions == record.tags and await is_readable(key, record.payload)

    async def _is_there(self, key: bytes, head: bytes, since: float) -> bool:
        data: bytes | None = head
        if not head or has_tags(head):
            # Which tags it has, the head does not say. And one that is empty is of an empty value, or
            # of what was taken away between two commands, such as somebody's right to load.
            data = await self._ask(GET, key, since)
        return await self._freshness.payload(data, since) is not None

    async def _is_value(
        self, key: bytes, data: bytes | None, since: float, is_readable: IsReadable
    ) -> bool:
        """Whether this is a value, neither stale nor invalid, that can be read."""
        payload = await self._freshness.payload(data, since)
        return payload is not None and await is_readable(key, payload)

    def _ask(self, verb: Command, argument: Any, since: float) -> asyncio.Future[Any]:
        key = argument if isinstance(argument, bytes) else argument[0]
        return self._batcher.execute(
            verb, argument, len(key) + 32, budget=self._freshness.remaining(since)
        )
