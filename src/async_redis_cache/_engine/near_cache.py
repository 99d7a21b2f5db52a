"""Client-side caching: data held in the process for as long as the server reports when it changes.

A local entry could be stale for three reasons, and each is ruled out here.

Invalidations can be lost: the connection that carries them can be closed, or stop delivering without being
closed. Entries are therefore served only until a deadline that each proof of life extends, and all are
dropped when the connection is lost, since the missed invalidations cannot be recovered.

An invalidation can overtake a reply: another program writes after the server has replied to a read, and the
invalidation arrives on its own connection while the reply is still on its way. Stored on arrival, the old
reply would stay for good. A read therefore begins with a pending fill; an invalidation of the key cancels
it, and a reply without a valid pending fill is returned to its callers but not kept.

Invalidations can be unread while the event loop is busy: a hit does not wait, so a task with many hits keeps
the loop from reading. Entries are therefore served only for a short time after the invalidation channel was
last seen without unread data; then a read yields to the loop and looks again.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable, Iterable, Sequence
from itertools import repeat
from typing import Final

from async_redis_cache._common.durations import SECOND
from async_redis_cache._common.stats import CacheStats
from async_redis_cache._protocol.command import Executor
from async_redis_cache._protocol.commands import GET, GET_WITH_TTL, MGET_WITH_TTL

from .bulk import read_in_parts
from .sieve import Doorkeeper, NearEntry, Sieve

__all__ = ["NearCache", "NearReads", "PendingFill"]

_PUSH_INTERVAL: Final = 0.020
"""Seconds for which entries are served without checking the invalidation channel for unread data."""
_PUSH_TURNS: Final = 5
"""Turns of the loop in which it may read the invalidation channel empty, before a read goes to the server.
The loop reads a limited amount in each turn."""
_NO_EXPIRY: Final = -1
_ENTRY_BYTES: Final = 300
"""Memory of an entry beside the bytes of its key and data: measured on CPython 3.11 to 3.13."""


PendingFill = NearEntry
"""A read whose reply may be kept unless the key changes meanwhile: an entry without data yet."""


class NearCache:
    """A bounded store of local entries.

    It does no I/O: invalidations and the state of the channel that carries them are reported to it, as the
    `InvalidationListener` of the client.

    Args:
        counters: counts hits, misses, invalidations and evictions, and holds the gauges of its size.
        max_size: maximum number of entries.
        max_bytes: maximum memory, including the objects that Python needs for the entries.
        max_ttl: maximum seconds for which an entry is kept.
        clock: seconds; must advance while the event loop is busy.
    """

    def __init__(
        self,
        counters: CacheStats,
        *,
        max_size: int,
        max_bytes: int,
        max_ttl: float,
        clock: Callable[[], float],
    ) -> None:
        self._counters = counters
        self._max_size = max_size
        self._max_bytes = max_bytes
        self._max_ttl = max_ttl
        self._clock = clock
        self._connected_until = -math.inf
        self._current_until = -math.inf
        self._entries: dict[bytes, NearEntry] = {}
        self._order = Sieve()
        self._doorkeeper = Doorkeeper(max_size)
        # Whether an entry was evicted, and none has been invalidated since.
        self._is_full = False
        self._pending_fills: dict[bytes, PendingFill] = {}
        self._watchers: dict[bytes, list[Callable[[], None]]] = {}
        counters.near_entries = counters.near_bytes = 0
        counters.near_connected = False

    def __repr__(self) -> str:
        state = "connected" if self.is_connected() else "not connected"
        return (
            f"<NearCache {len(self._entries)} entries, {self._counters.near_bytes} bytes, {state}>"
        )

    def get(self, key: bytes) -> bytes | None:
        """Return the data of a key; None if there is no entry, or it may be stale."""
        entry = self._entries.get(key)
        if entry is not None:
            now = self._clock()
            if now < entry.expires and now < self._current_until:
                entry.visited = True
                self._counters.near_hits += 1
                return entry.data
        return None

    def is_behind(self, key: bytes) -> bool:
        """Return whether `get` may return this key once `pushes_processed` was called."""
        return key in self._entries and self._current_until <= self._clock() < self._connected_until

    def pushes_processed(self) -> None:
        """Note that all invalidations received so far have been applied."""
        self._current_until = min(self._connected_until, self._clock() + _PUSH_INTERVAL)

    def begin_fill(self, key: bytes) -> PendingFill | None:
        """Begin a read of a key without an entry; end it with `fill`, whatever happens.

        Returns:
            None if the reply would not be kept; the remaining TTL is not needed then. Of concurrent reads of
            one key, the first has the pending fill: if later ones replaced it, a key that is read all the
            time would never be stored.
        """
        self._counters.near_misses += 1
        if key in self._pending_fills or (self._is_full and not self._doorkeeper.admits(key)):
            return None
        now = self._clock()
        if now >= self._connected_until:
            return None
        self._pending_fills[key] = pending = PendingFill(key, now)
        return pending

    def fill(self, pending: PendingFill | None, data: bytes | None, left: int) -> None:
        """End a read, and keep its reply unless the pending fill was cancelled.

        Args:
            pending: returned by `begin_fill`.
            data: None if there is none, or the read failed.
            left: remaining TTL on the server in milliseconds, as from PTTL: -1 if it never expires.
        """
        if pending is None or self._pending_fills.get(key := pending.key) is not pending:
            return
        del self._pending_fills[key]
        if data is None or (left <= 0 and left != _NO_EXPIRY):
            return
        stay = self._max_ttl if left == _NO_EXPIRY else min(self._max_ttl, left / SECOND)
        # Counted from before the request, so that the entry never outlives the value on the server.
        pending.expires = pending.requested_at + stay
        pending.data = data
        pending.size = len(key) + len(data) + _ENTRY_BYTES
        self._keep(pending)

    def is_connected(self) -> bool:
        """Return whether every change is reported at present; until that ends, `watch` misses none."""
        return self._clock() < self._connected_until

    def watch(self, key: bytes, on_change: Callable[[], None]) -> None:
        """Call `on_change` at each change of a key, and whenever changes may have been missed."""
        self._watchers.setdefault(key, []).append(on_change)

    def unwatch(self, key: bytes, on_change: Callable[[], None]) -> None:
        """End a `watch`."""
        watchers = self._watchers[key]
        watchers.remove(on_change)
        if not watchers:
            del self._watchers[key]

    def invalidate(self, keys: Iterable[bytes]) -> None:
        """Drop the entries of keys that have changed or are about to, and cancel their pending fills."""
        entries = self._entries
        pending_fills = self._pending_fills
        for key in keys:
            entry = entries.get(key)
            if entry is not None:
                self._drop(entry)
                self._is_full = False
            if pending_fills:
                pending_fills.pop(key, None)
            if self._watchers:
                for on_change in self._watchers.get(key, ()):
                    on_change()

    def invalidate_prefix(self, prefix: bytes) -> None:
        """Drop the entries of the keys with a prefix, and cancel their pending fills."""
        known = {*self._entries, *self._pending_fills, *self._watchers}
        self.invalidate([key for key in known if key.startswith(prefix)])

    def changed(self, keys: Sequence[bytes]) -> None:
        """Invalidate keys that the server reports as changed."""
        self._counters.near_invalidations += len(keys)
        self.invalidate(keys)

    def flush(self) -> None:
        """Drop all entries and cancel all pending fills: any key may have changed."""
        self._order.clear()
        self._entries.clear()
        self._pending_fills.clear()
        self._is_full = False
        self._counters.near_entries = self._counters.near_bytes = 0
        self._counters.near_flushes += 1
        for watchers in self._watchers.values():
            for on_change in watchers:
                on_change()

    def connected_until(self, moment: float) -> None:
        """Note that the server has reported all changes so far; the proof is valid until that moment."""
        self._connected_until = moment
        self._counters.near_connected = True

    def disconnected(self) -> None:
        """Drop everything: changes are not reported any more."""
        if self._connected_until > -math.inf:
            self._connected_until = self._current_until = -math.inf
            self._counters.near_connected = False
            self.flush()

    def _keep(self, entry: NearEntry) -> None:
        entries = self._entries
        counters = self._counters
        previous = entries.get(entry.key)
        if previous is not None:
            self._drop(previous)
        if entry.size > self._max_bytes:
            return
        room = self._max_bytes - entry.size
        evicted = counters.near_evictions
        while len(entries) >= self._max_size or counters.near_bytes > room:
            self._drop(self._order.victim())
            counters.near_evictions += 1
        self._is_full = counters.near_evictions > evicted
        entries[entry.key] = entry
        self._order.add(entry)
        counters.near_entries += 1
        counters.near_bytes += entry.size

    def _drop(self, entry: NearEntry) -> None:
        del self._entries[entry.key]
        self._order.remove(entry)
        self._counters.near_entries -= 1
        self._counters.near_bytes -= entry.size


class NearReads:
    """Reads with a near cache: local entries at once, all else from the server, which is then kept.

    Args:
        batcher: reads from the server.
        near: the local entries.
        has_unread: whether the invalidation channel has received data that is not applied yet.
        oversized: called for each value that is too large to be read with others.
    """

    def __init__(
        self,
        batcher: Executor,
        near: NearCache,
        has_unread: Callable[[], bool],
        oversized: Callable[[], None],
    ) -> None:
        self._batcher = batcher
        self._near = near
        self._has_unread = has_unread
        self._oversized = oversized

    async def fetch(self, key: bytes) -> bytes | None:
        """Return the data of one key."""
        near = self._near
        data = near.get(key)
        if data is None and near.is_behind(key) and await self._process_pushes():
            data = near.get(key)
        if data is None:
            pending = near.begin_fill(key)
            if pending is None:
                data = await self._batcher.execute(GET, key, len(key) + 16)
            else:
                left = 0
                try:
                    data, left = await self._batcher.execute(GET_WITH_TTL, key, 2 * len(key) + 32)
                finally:
                    near.fill(pending, data, left)
        return data

    async def fetch_with_source(self, key: bytes) -> tuple[bytes | None, bool]:
        """Return the data of one key, and whether it came from a local entry."""
        near = self._near
        data = near.get(key)
        if data is None and near.is_behind(key) and await self._process_pushes():
            data = near.get(key)
        return (await self.fetch(key), False) if data is None else (data, True)

    async def fetch_many(self, keys: Sequence[bytes], budget: float) -> list[bytes | None]:
        """Return the data of each key, in their order, within this many seconds."""
        near = self._near
        if any(map(near.is_behind, keys)):
            await self._process_pushes()
        found = {key: near.get(key) for key in keys}
        fills = {key: near.begin_fill(key) for key, data in found.items() if data is None}
        replies: list[tuple[bytes | None, int]] = []
        try:
            replies = await read_in_parts(
                self._batcher,
                MGET_WITH_TTL,
                list(fills),
                budget=budget,
                absent=(None, 0),
                oversized=self._oversized,
            )
        finally:
            filled = zip(fills.items(), replies or repeat((None, 0)), strict=False)
            for (key, pending), (data, left) in filled:
                near.fill(pending, data, left)
                found[key] = data
        return list(found.values())

    async def _process_pushes(self) -> bool:
        """Let the loop read the invalidation channel; return whether everything received is applied."""
        for _ in range(_PUSH_TURNS):
            # At least once, also where nothing is unread: other tasks get to run beside many hits.
            await asyncio.sleep(0)
            if not self._has_unread():
                self._near.pushes_processed()
                return True
        return False
