"""The verbs that look at the head of a value only: whether it is there, how long, and for how long more."""

from __future__ import annotations

import asyncio
from typing import Any, Final

from ._commands import CONTAINS, TIME_TO_LIVE, TOUCH_RECORD
from ._freshness import Freshness
from ._read_verbs import READ
from ._records import has_tags, is_record, record_of, slack_of
from ._tags import Tags
from ._verbs import Asker, Verb

__all__ = ["Heads"]

_WITH_TAGS: Final = 2
_NOT_THERE: Final = -2


class Heads:
    """Asks about values without fetching them, unless they have tags.

    Args:
        batcher: asks the server.
        touch: the verb that gives a new life.
        bounded: whether that says of records too all that there is to say.
        tags: of the cache.
        freshness: judges.
    """

    def __init__(
        self, batcher: Asker, touch: Verb, *, bounded: bool, tags: Tags, freshness: Freshness
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._batcher = batcher
        self._touch = touch
        self._bounded = bounded
        self._tags = tags
        self._freshness = freshness

    async def contains(self, key: bytes) -> bool:
        """Whether the key has a value."""
        since = self._loop.time()
        there, head = await self._batcher.ask(CONTAINS, (key,), len(key) + 16)
        return bool(there) and await self._is_value(key, head, since)

    async def time_to_live(self, key: bytes, since: float) -> int | None:
        """Milliseconds that its value has left; None when there is none or it never expires."""
        left, head = await self._ask(TIME_TO_LIVE, (key,), since)
        if left == _NOT_THERE or not await self._is_value(key, head, since):
            return None
        if is_record(head):
            left = max(0, left - slack_of(head))
        return left if left >= 0 else None

    async def touch(self, key: bytes, life: int) -> bool:
        """Give the key a new life, in milliseconds; whether it had a value."""
        since = self._loop.time()
        if self._bounded:
            touched = await self._ask(self._touch, (key, life), since)
            is_tagged = touched == _WITH_TAGS
        else:
            # Looked at first: what is no value, such as somebody's right to load, must not end sooner.
            touched, head = await self._ask(CONTAINS, (key,), since)
            if touched and is_record(head):
                touched = await self._ask(TOUCH_RECORD, (key, life), since)
            elif touched:
                touched, head = await self._ask(self._touch, (key, life), since)
            is_tagged = touched and has_tags(head)
            touched = touched and (head or await self._is_value(key, head, since))
        return await self._retagged(key, life, since) if is_tagged else bool(touched)

    async def _retagged(self, key: bytes, life: int, since: float) -> bool:
        """Let the tags of a key live with it; whether it is valid."""
        data = await self._ask(READ, key, since)
        record = record_of(data) if has_tags(data or b"") else None
        if record is None or not await self._freshness.tags_hold(record, since):
            return False
        stays = life + record.slack
        stamp = await self._tags.stamp(record.tags.keys(), stays, self._freshness.left(since))
        return stamp.versions == record.tags

    async def _is_value(self, key: bytes, head: bytes, since: float) -> bool:
        """Whether a value stands there that is neither stale nor invalid."""
        data: bytes | None = head
        if not head or has_tags(head):
            # Which tags it has, the head does not say. And one that is empty is of an empty value, or
            # of what was taken away between two commands, such as somebody's right to load.
            data = await self._ask(READ, key, since)
        return await self._freshness.payload(data, since) is not None

    def _ask(self, verb: Verb, argument: Any, since: float) -> asyncio.Future[Any]:
        key = argument if isinstance(argument, bytes) else argument[0]
        return self._batcher.ask(verb, argument, len(key) + 32, budget=self._freshness.left(since))
