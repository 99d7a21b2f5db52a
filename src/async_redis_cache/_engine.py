"""The corridor: the one place that knows which part does what, and in which order.

Here everything is bytes: keys as they stand on the server, data as it is stored there, None for
"no such key". Values, contexts and types are the doors' business.
"""

from __future__ import annotations

import asyncio
import math
import os
import random
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Final, TypeVar

from ._backoff import Backoff
from ._batcher import Batcher
from ._bounded import INDEX_SUFFIX
from ._breaker import Breaker
from ._bulk import ask_in_parts
from ._changes import Changes, ChangeVerbs
from ._clearing import clear_index, clear_prefix
from ._commands import PING, READ, READ_MANY
from ._counters import CacheStats
from ._debts import Debts
from ._dialer import Dialer, Dials
from ._errors import CacheError, CacheUnsupported
from ._failures import UNKNOWN
from ._flights import Wanted
from ._freshness import Freshness
from ._heads import Heads
from ._links import Keeper, Pace
from ._loading import Loading
from ._near_cache import NearCache
from ._near_reads import NearReads
from ._options import Options
from ._queue import CallQueue
from ._rights import Product, Rights, Silence
from ._sentinels import Announcements, MasterDialer
from ._server_clock import ServerClock
from ._tags import Tags
from ._tracking import Tracking
from ._transport import Transport
from ._uri import Address, Endpoint

__all__ = ["Engine"]

T = TypeVar("T")

_SECOND: Final = 1000
_SPREAD: Final = 0.1
"""Share of their age by which connections end sooner, by chance."""
_SENTINEL_HEARTBEAT: Final = 1.0
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
        self._connection_age = options.max_connection_age / _SECOND or math.inf
        self._prefix = options.key_prefix
        self._bounded = options.max_size > 0
        self.fails_open = options.fail_open == "always"
        """Whether every call does as if there were no cache while the server is away."""
        self.fails_closed = options.fail_open == "never"
        """Whether those that load raise too."""
        self._index = options.key_prefix.encode() + INDEX_SUFFIX
        self._verbs = ChangeVerbs.of(self._index, options.max_size)
        self.breaker = Breaker(self._sign_of_life, counters, random.random)
        self._batcher = Batcher(
            counters,
            heard=self.breaker.succeeded,
            may_move=endpoint.topology == "sentinel",
            budget=self._command_timeout,
            retries=options.retries,
            waiting=CallQueue(options.max_waiting_calls, options.max_waiting_bytes),
            backoff=Backoff(self.loop.time, random.random),
        )
        self._transport = Transport(
            self._dialer(endpoint, options),
            max_connections=options.max_connections,
            lifetime=self._lifetime,
            counters=counters,
            backoff=Backoff(self.loop.time, random.random),
            ready=self._batcher.ready,
            unreachable=self._batcher.unreachable,
        )
        self._batcher.connect_to(self._transport)
        self._tags = Tags(self._batcher, self.read_many, options.key_prefix.encode())
        self.freshness = Freshness(
            ServerClock(self._batcher, time.monotonic),
            self._tags,
            self._command_timeout,
            counters,
        )
        self._heads = Heads(
            self._batcher,
            self._verbs.touch,
            bounded=self._bounded,
            tags=self._tags,
            freshness=self.freshness,
        )
        self._near: NearCache | None = None
        self._tracking: Tracking | None = None
        if options.near_cache_enabled:
            self._near, self._tracking = self._tracked(endpoint, options)
            self._reads = NearReads(self._batcher, self._near, self._tracking.has_unread)
        self._announcements: Announcements | None = None
        if endpoint.topology == "sentinel":
            pace = self._pace(_SENTINEL_HEARTBEAT)
            self._announcements = Announcements(endpoint, options, self._moved, pace)
            self._announcements.start()
        rights = Rights(
            self._batcher,
            self._verbs.publish,
            self._tags,
            options.loading_lease_timeout,
            random.random,
            news=Silence() if self._near is None else self._near,
        )
        self._loading = Loading(rights, counters)
        self._debts = Debts(self._make_good, counters, random.random)
        self.changes = Changes(
            self._batcher,
            self._verbs,
            loading=self._loading,
            near=self._near,
            debts=self._debts,
            tags=self._tags,
            freshness=self.freshness,
            admit=self._admit,
        )

    @staticmethod
    def _dialer(endpoint: Endpoint, options: Options, *, protocol: int = 2) -> Dials:
        kind = MasterDialer if endpoint.topology == "sentinel" else Dialer
        return kind(endpoint, options, protocol=protocol)

    def _pace(self, heartbeat: float) -> Pace:
        return Pace(heartbeat, self._connect_timeout, self._lifetime, random.random, time.monotonic)

    def _moved(self, place: Address) -> None:
        """The master is now there: what was said to another is not to be relied on."""
        self._transport.leave_all_but(place)
        if self._tracking is not None:
            self._tracking.leave_all_but(place)

    def _tracked(self, endpoint: Endpoint, options: Options) -> tuple[NearCache, Tracking]:
        """What is held near, and the link on which the server says what of it has changed."""
        near = NearCache(
            self._counters,
            max_size=options.near_cache_max_size,
            max_bytes=options.near_cache_max_bytes,
            longest=options.near_cache_timeout / _SECOND,
            clock=time.monotonic,
        )
        tracking = Tracking(
            self._dialer(endpoint, options, protocol=3),
            near,
            prefix=options.key_prefix.encode(),
            pace=self._pace(options.near_cache_heartbeat / _SECOND),
        )
        tracking.start()
        return near, tracking

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

    def _lifetime(self) -> float:
        """For how many seconds a connection is used: not all end at once that began at once."""
        return self._connection_age * (1 - _SPREAD * random.random())  # noqa: S311  no secret

    async def _sign_of_life(self) -> None:
        budget = min(self._command_timeout, _PROBE_SECONDS)
        await self._batcher.ask(PING, (), 16, budget=budget, retries=0)

    def abandon(self) -> None:
        """Drop every connection though the event loop is closed."""
        self._transport.abandon()
        for link in self._links():
            link.abandon()

    async def close(self) -> None:
        """End every call and drop every connection. Whoever is cancelled here leaves nothing."""
        self._loading.stop()
        self.breaker.stop()
        self._debts.stop()
        self._batcher.close()
        for link in self._links():
            link.stop()
        await self._loading.stopped()
        await self.breaker.stopped()
        await self._debts.stopped()
        await self._transport.close()
        for link in self._links():
            await link.stopped()

    def _links(self) -> list[Keeper]:
        return [link for link in (self._tracking, self._announcements) if link is not None]

    async def load(
        self, key: bytes, wanted: Wanted, patience: float | None = None
    ) -> Product | bytes | None:
        """See `Loading.load`."""
        return await self._loading.load(key, wanted, patience)

    def load_ahead(self, key: bytes, wanted: Wanted) -> None:
        """See `Loading.ahead`."""
        self._loading.ahead(key, wanted)

    def read(self, key: bytes) -> Awaitable[bytes | None]:
        """The data of one key."""
        if self._debts.owed or self.fails_open:
            return self._read_admitted(key)
        if self._near is not None:
            return self._reads.one(key)
        return self._batcher.ask(READ, key, len(key) + 16)

    async def read_where(self, key: bytes) -> tuple[bytes | None, bool]:
        """The data of one key, and whether it was near."""
        if self._debts.owed or self.fails_open:
            return await self._read_admitted(key), False
        if self._near is not None:
            return await self._reads.where(key)
        return await self._batcher.ask(READ, key, len(key) + 16), False

    async def read_many(
        self, keys: Sequence[bytes], budget: float | None = None
    ) -> list[bytes | None]:
        """The data of each key, in their order, within so many seconds."""
        self._admit()
        deadline = self.loop.time() + (self._command_timeout if budget is None else budget)
        # Before they are read: what is made good meanwhile may have been read sooner.
        owed = {key for key in keys if key in self._debts.owed}
        if self._near is not None:
            found = await self._reads.many(keys, budget)
        else:
            chunks = await ask_in_parts(self._batcher, READ_MANY, keys, budget=budget)
            found = [data for chunk in chunks for data in chunk]
        if owed:
            # Asked first, the server says for itself what is wrong with it.
            await self._debts.paid(tuple(owed), deadline - self.loop.time())
            found = [None if key in owed else data for key, data in zip(keys, found, strict=True)]
        return found

    async def take(self, key: bytes) -> bytes | None:
        """Remove one key: what it held."""
        since = self.loop.time()
        data: bytes | None = (await self.changes.remove(self._verbs.take, (key,)))[0]
        try:
            payload = await self.freshness.payload(data, since)
        except CacheError:
            # It is removed, and nobody knows whether it was valid.
            raise UNKNOWN.error() from None
        self._counters.removals += payload is not None
        return payload

    async def discard(self, keys: Sequence[bytes]) -> int:
        """Remove keys: how many there were."""
        removed: int = sum(await self.changes.remove(self._verbs.discard, keys))
        self._counters.removals += removed
        return removed

    async def forget(self, keys: Sequence[bytes]) -> None:
        """Remove keys, whether they were there or not."""
        self._counters.removals += sum(await self.changes.remove(self._verbs.forget, keys))

    async def contains(self, key: bytes) -> bool:
        """Whether the key has a value."""
        return bool(await self._unless_owed(key, self._heads.contains))

    async def touch(self, key: bytes, life: int) -> bool:
        """Give the key a new life, in milliseconds; whether it had a value."""

        async def touch(key: bytes) -> bool:
            return await self.changes.touch((key,), self._heads.touch(key, life))

        return bool(await self._unless_owed(key, touch))

    async def time_to_live(self, key: bytes) -> int | None:
        """Milliseconds that its value has left; None when there is none or it never expires."""
        return await self._unless_owed(key, self._heads.time_to_live)

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
                removed = await clear_prefix(
                    self._batcher, budget, self._prefix, self._verbs.discard
                )
            else:
                removed = await clear_index(self._batcher, budget, self._index)
        finally:
            self.changes.all_changed()
        self._counters.removals += removed
        return removed

    def _admit(self) -> None:
        """Before the server is asked: is it left alone?"""
        if self.fails_open:
            self.breaker.pass_through()

    async def _read_admitted(self, key: bytes) -> bytes | None:
        return (await self.read_many((key,)))[0]

    async def _unless_owed(self, key: bytes, ask: Callable[[bytes], Awaitable[T]]) -> T | None:
        """What is said of a key; nothing where it has to be removed yet, which then is done."""
        self._admit()
        since = self.loop.time()
        was_owed = key in self._debts.owed
        answer = await ask(key)
        if not was_owed:
            return answer
        await self._debts.paid((key,), self.freshness.left(since))
        return None

    async def _make_good(self, keys: Sequence[bytes]) -> None:
        await self.changes.make_good(keys)
