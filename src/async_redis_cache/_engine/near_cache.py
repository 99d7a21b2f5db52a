"""Data held in the process, for as long as the server is known to tell when it changes.

Three things can make it stale, and all are ruled out here.

The news may be lost: the link that brings it can be cut, or be silent without being cut. So data is
given only until a moment that each sign of life moves on, and when the link is lost everything is
dropped, since nobody says what was missed.

The news may overtake an answer: another program writes after the server has answered our question,
and hears of it on one connection while the answer still travels on another. Put away on arrival,
the old answer would stay for good. So whoever asks takes a lease first; news of the key ends the
lease, and an answer whose lease has ended is given to its callers but not kept.

And the news may lie unread, while the event loop is busy: a hit does not wait, so a caller of many
hits keeps the loop from reading. So data is given only for a moment after the loop has last had its
turn; then the caller has to let it have one.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from typing import Final

from async_redis_cache._common.stats import CacheStats

from .sieve import Doorkeeper, NearEntry, Sieve

__all__ = ["NearCache", "PendingFill"]

_SECOND: Final = 1000
_PUSH_INTERVAL: Final = 0.020
"""Seconds for which data is given without a look at what the link has brought."""
_NO_EXPIRY: Final = -1
_ENTRY_BYTES: Final = 300
"""What an entry takes beside the bytes of its key and data: measured, on CPython 3.11 to 3.13."""


PendingFill = NearEntry
"""The right to keep the answer to one question, unless the key changes meanwhile: the entry to be."""


class NearCache:
    """A bounded store of data that is near.

    It does no I/O: it is told what has changed, and until when it may be trusted.

    Args:
        counters: where its hits, its size and its losses are counted.
        max_size: most entries.
        max_bytes: most bytes, what Python needs for the entries included.
        longest: most seconds that an entry stays.
        clock: seconds; it must not stand still while the event loop is busy.
    """

    def __init__(
        self,
        counters: CacheStats,
        *,
        max_size: int,
        max_bytes: int,
        longest: float,
        clock: Callable[[], float],
    ) -> None:
        self._counters = counters
        self._max_size = max_size
        self._max_bytes = max_bytes
        self._longest = longest
        self._clock = clock
        self._connected_until = -math.inf
        self._current_until = -math.inf
        self._entries: dict[bytes, NearEntry] = {}
        self._order = Sieve()
        self._doorkeeper = Doorkeeper(max_size)
        # Whether an entry had to go for room, and none has left since.
        self._is_full = False
        self._pending_fills: dict[bytes, PendingFill] = {}
        self._watchers: dict[bytes, list[Callable[[], None]]] = {}
        counters.near_entries = counters.near_bytes = 0
        counters.near_connected = False

    def __repr__(self) -> str:
        trusted = "trusted" if self._clock() < self._connected_until else "not trusted"
        return f"<NearCache {len(self._entries)} entries, {self._counters.near_bytes} bytes, {trusted}>"

    def get(self, key: bytes, *, pushes_processed: bool = False) -> bytes | None:
        """The data of a key, if it is near and may be given.

        Args:
            key: whose data.
            pushes_processed: whether the loop has processed received pushes since the caller asked.
        """
        entry = self._entries.get(key)
        if entry is not None:
            now = self._clock()
            if now < entry.expires and now < (
                self._connected_until if pushes_processed else self._current_until
            ):
                entry.visited = True
                self._counters.near_hits += 1
                return entry.data
        return None

    def is_behind(self, key: bytes) -> bool:
        """Whether this key could be given, once the loop has had its turn."""
        return key in self._entries and self._current_until <= self._clock() < self._connected_until

    def pushes_processed(self, since: float) -> None:
        """The loop has had its turn since that moment: what had come by then is known."""
        self._current_until = min(self._connected_until, since + _PUSH_INTERVAL)

    def begin_fill(self, key: bytes) -> PendingFill | None:
        """To be taken before a key is asked for that is not near, and settled whatever comes.

        None: the answer would not be kept, so nothing needs to be known but the data. Of several
        questions under way for one key, the first holds the right to keep its answer: a later one
        would let it wait for ever when the key is asked for all the time.
        """
        self._counters.near_misses += 1
        if key in self._pending_fills or (self._is_full and not self._doorkeeper.admits(key)):
            return None
        now = self._clock()
        if now >= self._connected_until:
            return None
        self._pending_fills[key] = lease = PendingFill(key, now)
        return lease

    def fill(self, lease: PendingFill | None, data: bytes | None, left: int) -> None:
        """End a lease; keep the data if it has not ended before.

        Args:
            lease: what was taken before asking.
            data: None where there is none.
            left: milliseconds that the data has left on the server, as PTTL says it: -1 for ever.
        """
        if lease is None or self._pending_fills.get(key := lease.key) is not lease:
            return
        del self._pending_fills[key]
        if data is None or (left <= 0 and left != _NO_EXPIRY):
            return
        stay = self._longest if left == _NO_EXPIRY else min(self._longest, left / _SECOND)
        # Counted from before the question, so that it never stays longer than on the server.
        lease.expires = lease.asked_at + stay
        lease.data = data
        lease.size = len(key) + len(data) + _ENTRY_BYTES
        self._keep(lease)

    def is_connected(self) -> bool:
        """Whether each change is told; as long as it is, `watch` misses none."""
        return self._clock() < self._connected_until

    def watch(self, key: bytes, tell: Callable[[], None]) -> None:
        """Call this at each change of a key, and when changes may have been missed."""
        self._watchers.setdefault(key, []).append(tell)

    def unwatch(self, key: bytes, tell: Callable[[], None]) -> None:
        """Call it no more."""
        watchers = self._watchers[key]
        watchers.remove(tell)
        if not watchers:
            del self._watchers[key]

    def invalidate(self, keys: Iterable[bytes]) -> None:
        """These keys have changed, or are about to."""
        entries = self._entries
        leases = self._pending_fills
        for key in keys:
            entry = entries.get(key)
            if entry is not None:
                self._drop(entry)
                self._is_full = False
            if leases:
                leases.pop(key, None)
            if self._watchers:
                for tell in self._watchers.get(key, ()):
                    tell()

    def changed(self, keys: Sequence[bytes]) -> None:
        """The server says that these keys have changed."""
        self._counters.near_invalidations += len(keys)
        self.invalidate(keys)

    def flush(self) -> None:
        """Everything may have changed."""
        self._order.clear()
        self._entries.clear()
        self._pending_fills.clear()
        self._is_full = False
        self._counters.near_entries = self._counters.near_bytes = 0
        self._counters.near_flushes += 1
        for watchers in self._watchers.values():
            for tell in watchers:
                tell()

    def connected_until(self, moment: float) -> None:
        """The server is known to have told all, and will have to say so again by this moment."""
        self._connected_until = moment
        self._counters.near_connected = True

    def disconnected(self) -> None:
        """Nobody says any more what changes."""
        if self._connected_until > -math.inf:
            self._connected_until = self._current_until = -math.inf
            self._counters.near_connected = False
            self.flush()

    def _keep(self, entry: NearEntry) -> None:
        entries = self._entries
        counters = self._counters
        former = entries.get(entry.key)
        if former is not None:
            self._drop(former)
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
