"""Which entry of a full near cache has to go, and which key may come in at all.

Who goes: SIEVE.
A hand walks from the oldest entry to the newest, passes over those that were asked for since it
last came by, and takes the first that was not. A hit only sets a flag, which is what makes it as
cheap as it is here: nothing moves. The measured comparison with LRU and others stands in the
documentation (docs/explanation/client-side-caching.md); the algorithm is that of Zhang et al., "SIEVE is
Simpler than LRU", NSDI 2024.

Who comes in: whoever is asked for a second time. Most keys of a skewed load are asked for once in a
long while; to keep them costs more than it saves, and drives out what is asked for often. It is the
doorkeeper of Einziger et al., "TinyLFU", 2017, with a set where they have a Bloom filter.
"""

from __future__ import annotations

__all__ = ["Doorkeeper", "NearEntry", "Sieve"]


class NearEntry:
    """Data held near, and its place among the others. It begins without either when it is asked for."""

    __slots__ = ("asked_at", "data", "expires", "key", "newer", "older", "size", "visited")

    data: bytes
    expires: float
    size: int
    visited: bool
    newer: NearEntry | None
    older: NearEntry | None

    def __init__(self, key: bytes, asked_at: float) -> None:
        self.key = key
        self.asked_at = asked_at


class Sieve:
    """Entries from the oldest to the newest, and the hand."""

    def __init__(self) -> None:
        self._oldest: NearEntry | None = None
        self._newest: NearEntry | None = None
        self._hand: NearEntry | None = None

    def add(self, entry: NearEntry) -> None:
        """Take an entry in, as the newest."""
        entry.visited = False
        entry.newer = None
        entry.older = self._newest
        if self._newest is None:
            self._oldest = entry
        else:
            self._newest.newer = entry
        self._newest = entry

    def remove(self, entry: NearEntry) -> None:
        """Take an entry out, wherever it stands."""
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
        # Entries that are gone would keep their neighbours alive.
        entry.older = entry.newer = None

    def clear(self) -> None:
        """Take all out."""
        entry, self._oldest = self._oldest, None
        self._newest = self._hand = None
        while entry is not None:
            following = entry.newer
            entry.older = entry.newer = None
            entry = following

    def victim(self) -> NearEntry:
        """The entry to drop next.

        Raises:
            LookupError: there is none.
        """
        entry = self._hand or self._oldest
        while entry is not None and entry.visited:
            entry.visited = False
            entry = entry.newer or self._oldest
        if entry is None:
            raise LookupError("nothing is held")
        self._hand = entry
        return entry


class Doorkeeper:
    """Knows which keys were asked for lately, and forgets all of them when they become too many.

    Args:
        size: most keys that it knows.
    """

    def __init__(self, size: int) -> None:
        self._size = size
        self._seen: set[int] = set()

    def admits(self, key: bytes) -> bool:
        """Whether this key was asked for before; it is forgotten when it was."""
        # A hash is smaller than the key. Two keys may share one: then one comes in a little early.
        mark = hash(key)
        asked = self._seen
        if mark in asked:
            asked.remove(mark)
            return True
        if len(asked) >= self._size:
            asked.clear()
        asked.add(mark)
        return False
