"""Eviction and admission of a full near cache.

Eviction is SIEVE: a hand moves from the oldest entry to the newest, skips those that were read since its last
pass, and evicts the first one that was not. A hit only sets a flag and moves nothing, which keeps hits cheap.
docs/explanation/client-side-caching.md compares it with LRU and others by measurement; the algorithm is that
of Zhang et al., "SIEVE is Simpler than LRU", NSDI 2024.

Admission is a doorkeeper: a key is stored on its second read. In a skewed workload most keys are read rarely;
storing them costs more than it saves, and evicts keys that are read often. It is the doorkeeper of Einziger
et al., "TinyLFU", 2017, with a set in place of the Bloom filter.
"""

from __future__ import annotations

__all__ = ["Doorkeeper", "NearEntry", "Sieve"]


class NearEntry:
    """Data of a key and its place in the order of eviction; both are set when the reply has arrived."""

    __slots__ = ("data", "expires", "key", "newer", "older", "requested_at", "size", "visited")

    data: bytes
    expires: float
    size: int
    visited: bool
    newer: NearEntry | None
    older: NearEntry | None

    def __init__(self, key: bytes, requested_at: float) -> None:
        self.key = key
        self.requested_at = requested_at


class Sieve:
    """The order of eviction: a list of entries from the oldest to the newest, and the hand."""

    def __init__(self) -> None:
        self._oldest: NearEntry | None = None
        self._newest: NearEntry | None = None
        self._hand: NearEntry | None = None

    def add(self, entry: NearEntry) -> None:
        """Add an entry as the newest."""
        entry.visited = False
        entry.newer = None
        entry.older = self._newest
        if self._newest is None:
            self._oldest = entry
        else:
            self._newest.newer = entry
        self._newest = entry

    def remove(self, entry: NearEntry) -> None:
        """Remove an entry from any place."""
        if self._hand is entry:
            self._hand = entry.newer
        if entry.older is None:
            self._oldest = entry.newer
        else:
            entry.older.newer = entry.newer
        if entry.newer is None:
            self._newest = entry.older
        else:
            entry.newer.older = entry.older
        # A removed entry would keep its neighbours alive.
        entry.older = entry.newer = None

    def clear(self) -> None:
        """Remove all entries."""
        entry, self._oldest = self._oldest, None
        self._newest = self._hand = None
        while entry is not None:
            following = entry.newer
            entry.older = entry.newer = None
            entry = following

    def victim(self) -> NearEntry:
        """Move the hand, and return the entry to evict. The caller removes it.

        Raises:
            LookupError: there are no entries.
        """
        entry = self._hand or self._oldest
        while entry is not None and entry.visited:
            entry.visited = False
            entry = entry.newer or self._oldest
        if entry is None:
            raise LookupError("no entries to evict")
        self._hand = entry
        return entry


class Doorkeeper:
    """Remember which keys were read once, and forget all of them when there are too many.

    Args:
        size: maximum number of keys to remember.
    """

    def __init__(self, size: int) -> None:
        self._size = size
        self._seen: set[int] = set()

    def admits(self, key: bytes) -> bool:
        """Return whether this key was read before, and forget it if so."""
        # A hash is smaller than the key. If two keys share one, one of them is admitted on its first read.
        mark = hash(key)
        seen = self._seen
        if mark in seen:
            seen.remove(mark)
            return True
        if len(seen) >= self._size:
            seen.clear()
        seen.add(mark)
        return False
