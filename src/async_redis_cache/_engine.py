"""The corridor: the one place that knows which part does what, and in which order.

Here everything is bytes: keys as they stand on the server, data as it is stored there, None for
"no such key". Values, contexts and types are the doors' business.
"""

from __future__ import annotations

import asyncio
import os
import random
import time
from collections.abc import Awaitable, Collection, Sequence
from typing import Final, TypeVar

from ._backoff import Backoff
from ._batcher import Batcher
from ._bounded import INDEX_SUFFIX, BoundedRemove, BoundedStore, BoundedTouch
from ._breaker import Breaker
from ._bulk import ask_in_parts
from ._clearing import clear_index, clear_prefix
from ._commands import (
    CONTAINS,
    DISCARD,
    FORGET,
    PING,
    READ,
    READ_MANY,
    STORE,
    TAKE,
    TIME_TO_LIVE,
    TOUCH,
    TOUCH_RECORD,
    Entry,
    Verb,
)
from ._counters import CacheStats
from ._dialer import Dialer
from ._errors import CacheError, CacheUnsupported
from ._failures import UNKNOWN
from ._leases import BoundedPublish, Publish
from ._loading import Loading, Wanted
from ._near_cache import NearCache
from ._near_reads import NearReads
from ._options import Options
from ._queue import CallQueue
from ._records import VALUE, Record, has_tags, is_record, record_of, slack_of, tagged
from ._rights import Product, Rights
from ._server_clock import ServerClock
from ._tags import Tags
from ._tracking import Tracking
from ._transport import Transport
from ._uri import Endpoint

__all__ = ["Engine"]

T = TypeVar("T")

_SECOND: Final = 1000
_MILLISECOND: Final = 1000
"""In microseconds."""
_TOUCHED_WITH_TAGS: Final = 2
_PROBE_SECONDS: Final = 0.4
"""How long a server that was away has to answer a probe: so that it is found back within a second."""


class Engine:
    """An open cache, on the event loop that is running.

    Every awaitable ends by the deadline `command_timeout`, in an answer or a `CacheError`.

    Raises:
        CacheConfigError: BAD_OPTION, when a TLS file cannot be read.
    """

    def __init__(self, endpoint: Endpoint, options: Options, counters: CacheStats) -> None:
        self.loop = asyncio.get_running_loop()
        self.pid = os.getpid()
        self._counters = counters
        self._connect_timeout = options.connect_timeout / _SECOND
        self._command_timeout = options.command_timeout / _SECOND
        self._prefix = options.key_prefix
        self._bounded = options.max_size > 0
        self._index = options.key_prefix.encode() + INDEX_SUFFIX
        self._store: Verb = STORE
        self._take: Verb = TAKE
        self._discard: Verb = DISCARD
        self._forget: Verb = FORGET
        self._touch: Verb = TOUCH
        if self._bounded:
            self._store = BoundedStore(self._index, options.max_size)
            self._take = BoundedRemove(self._index, b"GETDEL")
            self._discard = BoundedRemove(self._index, b"UNLINK")
            self._forget = BoundedRemove(self._index, b"UNLINK", heeded=False)
            self._touch = BoundedTouch(self._index)
        self._batcher = Batcher(
            counters,
            budget=self._command_timeout,
            retries=options.retries,
            waiting=CallQueue(options.max_waiting_calls, options.max_waiting_bytes),
            backoff=Backoff(self.loop.time, random.random),
        )
        self._transport = Transport(
            Dialer(endpoint, options),
            max_connections=options.max_connections,
            counters=counters,
            backoff=Backoff(self.loop.time, random.random),
            ready=self._batcher.ready,
            unreachable=self._batcher.unreachable,
        )
        self._batcher.connect_to(self._transport)
        publish = BoundedPublish(self._index, options.max_size) if self._bounded else Publish()
        lease = options.loading_lease_timeout
        self._tags = Tags(self._batcher, self.read_many, options.key_prefix.encode())
        rights = Rights(self._batcher, publish, self._tags, lease, random.random)
        self._loading = Loading(rights, counters)
        self._clock = ServerClock(self._batcher, time.monotonic)
        self.breaker = Breaker(self._sign_of_life, counters, random.random)
        self._near: NearCache | None = None
        self._tracking: Tracking | None = None
        if options.near_cache_enabled:
            self._near = NearCache(
                counters,
                max_size=options.near_cache_max_size,
                max_bytes=options.near_cache_max_bytes,
                longest=options.near_cache_timeout / _SECOND,
                clock=time.monotonic,
            )
            self._tracking = Tracking(
                Dialer(endpoint, options, protocol=3),
                self._near,
                prefix=options.key_prefix.encode(),
                heartbeat=options.near_cache_heartbeat / _SECOND,
                timeout=self._connect_timeout,
                backoff=Backoff(self.loop.time, random.random),
                random=random.random,
                clock=time.monotonic,
            )
            self._reads = NearReads(self._batcher, self._near, self._tracking.has_unread)
            self._tracking.start()

    def __repr__(self) -> str:
        return f"<Engine {self._batcher!r} {self._transport!r}>"

    async def connect(self) -> None:
        """Connect, log in and ping: one attempt, within `connect_timeout`.

        Raises:
            CacheUnsupported: the server, or the user, cannot do what an option needs.
            CacheError: whatever else came of the attempt.
        """
        await self._batcher.ask(PING, (), 0, budget=self._connect_timeout, retries=0)
        if self._tracking is not None:
            failure = await self._tracking.first()
            if failure is not None:
                raise failure.error()

    async def _sign_of_life(self) -> None:
        budget = min(self._command_timeout, _PROBE_SECONDS)
        await self._batcher.ask(PING, (), 16, budget=budget, retries=0)

    def abandon(self) -> None:
        """Drop every connection though the event loop is closed."""
        self._transport.abandon()
        if self._tracking is not None:
            self._tracking.abandon()

    async def close(self) -> None:
        """End every call and drop every connection. Whoever is cancelled here leaves nothing."""
        self._loading.stop()
        self.breaker.stop()
        self._batcher.close()
        if self._tracking is not None:
            self._tracking.stop()
        await self._loading.stopped()
        await self.breaker.stopped()
        await self._transport.close()
        if self._tracking is not None:
            await self._tracking.stopped()

    async def load(
        self, key: bytes, wanted: Wanted, patience: float | None = None
    ) -> Product | bytes | None:
        """See `Loading.load`."""
        return await self._loading.load(key, wanted, patience)

    def load_ahead(self, key: bytes, wanted: Wanted) -> None:
        """See `Loading.ahead`."""
        self._loading.ahead(key, wanted)

    async def fresh(self, data: bytes | None, since: float) -> bytes | None:
        """The payload, if what was read is a value, not stale, and its tags hold.

        Args:
            data: what was read.
            since: when the call began, by the loop's clock. All it asks ends by its deadline.
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
        holds = not record.tags or await self.tags_hold(record, since)
        return record.payload if holds else None

    async def now(self, since: float) -> int:
        """What time it is on the server, for a call that began then."""
        return await self._clock.now(self._left(since))

    async def tags_hold(self, record: Record, since: float) -> bool:
        """Whether none of its tags was invalidated since it was stored."""
        return await self._tags.hold(record.tags, self._left(since))

    async def invalidate_tags(self, tags: Collection[bytes]) -> None:
        """Make invalid what bears any of these tags."""
        self._loading.tags_overtaken(tags)
        await self._changing(self._tags.keys(tags), self._tags.invalidate(tags))

    def read(self, key: bytes) -> Awaitable[bytes | None]:
        """The data of one key."""
        if self._near is not None:
            return self._reads.one(key)
        return self._batcher.ask(READ, key, len(key) + 16)

    async def read_where(self, key: bytes) -> tuple[bytes | None, bool]:
        """The data of one key, and whether it was near."""
        if self._near is not None:
            return await self._reads.where(key)
        return await self._batcher.ask(READ, key, len(key) + 16), False

    async def read_many(
        self, keys: Sequence[bytes], budget: float | None = None
    ) -> list[bytes | None]:
        """The data of each key, in their order."""
        if self._near is not None:
            return await self._reads.many(keys, budget)
        chunks = await ask_in_parts(self._batcher, READ_MANY, keys, budget=budget)
        return [data for chunk in chunks for data in chunk]

    def store(self, key: bytes, data: bytes, life: int) -> Awaitable[None]:
        """Store one entry for so many milliseconds."""
        stored = self._batcher.ask(self._store, ((key, data, life),), len(key) + len(data) + 48)
        return self._changing((key,), stored)

    async def store_many(self, entries: Sequence[Entry], tags: Collection[bytes] = ()) -> None:
        """Store all entries, each with these tags; when it fails, some may have been stored."""
        since = self.loop.time()
        if tags:
            life = max(life for _, _, life in entries)
            versions, now = await self._tags.stamp(tags, life)
            now //= _MILLISECOND
            entries = [
                (key, tagged(data, versions, now, life), life) for key, data, life in entries
            ]
        stored = ask_in_parts(self._batcher, self._store, entries, budget=self._left(since))
        await self._changing([key for key, _, _ in entries], stored)

    async def take(self, key: bytes) -> bytes | None:
        """Remove one key: what it held."""
        since = self.loop.time()
        data: bytes | None = await self._changing(
            (key,), self._batcher.ask(self._take, (key,), len(key) + 32)
        )
        try:
            payload = await self.fresh(data, since)
        except CacheError:
            # It is removed, and nobody knows whether it was valid.
            raise UNKNOWN.error() from None
        self._counters.removals += payload is not None
        return payload

    async def discard(self, keys: Sequence[bytes]) -> int:
        """Remove keys: how many there were."""
        removed: int = sum(
            await self._changing(keys, ask_in_parts(self._batcher, self._discard, keys))
        )
        self._counters.removals += removed
        return removed

    async def forget(self, keys: Sequence[bytes]) -> None:
        """Remove keys, whether they were there or not."""
        forgotten = self._changing(keys, ask_in_parts(self._batcher, self._forget, keys))
        self._counters.removals += sum(await forgotten)

    async def contains(self, key: bytes) -> bool:
        """Whether the key has a value."""
        since = self.loop.time()
        there, head = await self._batcher.ask(CONTAINS, (key,), len(key) + 16)
        return bool(there) and await self._is_value(key, head, since)

    async def touch(self, key: bytes, life: int) -> bool:
        """Give the key a new life, in milliseconds; whether it had a value."""
        return await self._changing((key,), self._touched(key, life))

    async def _touched(self, key: bytes, life: int) -> bool:
        since = self.loop.time()
        size = len(key) + 32
        if self._bounded:
            touched = await self._batcher.ask(self._touch, (key, life), size)
            is_tagged = touched == _TOUCHED_WITH_TAGS
        else:
            touched, head = await self._batcher.ask(self._touch, (key, life), size)
            if touched and is_record(head):
                left = self._left(since)
                touched = await self._batcher.ask(TOUCH_RECORD, (key, life), size, budget=left)
            is_tagged = touched and has_tags(head)
        if is_tagged:
            return await self._retagged(key, life, since)
        return bool(touched)

    async def _retagged(self, key: bytes, life: int, since: float) -> bool:
        """Let the tags of a key live with it; whether it is valid."""
        data = await self._batcher.ask(READ, key, len(key) + 16, budget=self._left(since))
        record = record_of(data) if has_tags(data or b"") else None
        if record is None:
            return False
        stays = life + record.slack
        stamp = await self._tags.stamp(record.tags.keys(), stays, self._left(since))
        return stamp.versions == record.tags

    async def time_to_live(self, key: bytes) -> int | None:
        """Milliseconds that its value has left; None when there is none or it never expires."""
        since = self.loop.time()
        left, head = await self._batcher.ask(TIME_TO_LIVE, (key,), len(key) + 16)
        if is_record(head):
            if not await self._is_value(key, head, since):
                return None
            left = max(0, left - slack_of(head))
        return left if left >= 0 else None

    async def _is_value(self, key: bytes, head: bytes, since: float) -> bool:
        """Whether a value stands there that is neither stale nor invalid."""
        if has_tags(head):
            # Which they are, the head does not say.
            budget = self._left(since)
            head = await self._batcher.ask(READ, key, len(key) + 16, budget=budget)
        return await self.fresh(head, since) is not None

    def _left(self, since: float) -> float:
        """Seconds that a call has left which was answered once: one deadline for all that it asks."""
        return since + self._command_timeout - self.loop.time()

    async def ping(self) -> None:
        """One round trip that does nothing."""
        await self._batcher.ask(PING, (), 16)

    async def clear(self) -> int:
        """Remove this cache's keys and no others, within the deadline; how many there were.

        Raises:
            CacheUnsupported: nothing tells which keys are this cache's.
        """
        if not (self._prefix or self._bounded):
            problem = "clear needs options.key_prefix or options.max_size to know its keys by"
            raise CacheUnsupported("UNSUPPORTED", problem)
        budget = self._command_timeout
        try:
            if self._prefix:
                removed = await clear_prefix(self._batcher, budget, self._prefix, self._discard)
            else:
                removed = await clear_index(self._batcher, budget, self._index)
        finally:
            self._loading.all_overtaken()
            if self._near is not None:
                self._near.flush()
        self._counters.removals += removed
        return removed

    def _changing(self, keys: Sequence[bytes], change: Awaitable[T]) -> Awaitable[T]:
        """A change of keys, before and after which nothing is near that it makes old.

        The server says so too, but a little later: whoever awaits a change reads it thereafter.
        """
        self._loading.overtaken(keys)
        return change if self._near is None else _invalidating(self._near, keys, change)


async def _invalidating(near: NearCache, keys: Sequence[bytes], change: Awaitable[T]) -> T:
    near.invalidate(keys)
    try:
        return await change
    finally:
        near.invalidate(keys)
