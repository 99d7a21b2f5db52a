"""What could choose the entry that leaves a full near cache, all behind the same three calls.

The calls do what a near cache does: a hit looks at the entry's own expiry, any key can be removed
at any moment. Those written here are bounded in entries and bytes. The published libraries are
bounded in entries only, and loaded when they are made.
"""

import math
from abc import ABC, abstractmethod
from collections import OrderedDict
from collections.abc import Callable, Mapping
from importlib import import_module
from importlib.metadata import version
from typing import Any, Protocol

from async_redis_cache._engine import sieve as near


class Policy(Protocol):
    """A cache with a policy of its own."""

    def get(self, key: bytes, now: float) -> bytes | None: ...
    def put(self, key: bytes, data: bytes, expires: float) -> None: ...
    def remove(self, key: bytes) -> None: ...
    def __len__(self) -> int: ...


class Entry:
    """All that any of the policies written here has to know of an entry, but its place."""

    __slots__ = ("data", "expires", "visited")

    def __init__(self, data: bytes, expires: float) -> None:
        self.data = data
        self.expires = expires
        self.visited = False


class _Bounded(ABC):
    def __init__(self, max_entries: int, max_bytes: float = math.inf) -> None:
        self._max_entries = max_entries
        self._max_bytes = max_bytes
        self.held_bytes: int = 0

    def put(self, key: bytes, data: bytes, expires: float) -> None:
        self.remove(key)
        size = len(key) + len(data)
        if size > self._max_bytes:
            return
        while len(self) >= self._max_entries or self.held_bytes + size > self._max_bytes:
            self._evict()
        self.held_bytes += size
        self._add(key, data, expires)

    @abstractmethod
    def remove(self, key: bytes) -> None: ...
    @abstractmethod
    def __len__(self) -> int: ...
    @abstractmethod
    def _add(self, key: bytes, data: bytes, expires: float) -> None: ...
    @abstractmethod
    def _evict(self) -> None: ...


class Lru(_Bounded):
    """The entry that was not asked for longest leaves; a hit moves its entry to the end."""

    def __init__(self, max_entries: int, max_bytes: float = math.inf) -> None:
        super().__init__(max_entries, max_bytes)
        self._entries = OrderedDict[bytes, Entry]()

    def __len__(self) -> int:
        return len(self._entries)

    def get(self, key: bytes, now: float) -> bytes | None:
        entry = self._entries.get(key)
        if entry is not None and now < entry.expires:
            self._entries.move_to_end(key)
            return entry.data
        return None

    def remove(self, key: bytes) -> None:
        entry = self._entries.pop(key, None)
        if entry is not None:
            self.held_bytes -= len(key) + len(entry.data)

    def _add(self, key: bytes, data: bytes, expires: float) -> None:
        self._entries[key] = Entry(data, expires)

    def _evict(self) -> None:
        key, entry = self._entries.popitem(last=False)
        self.held_bytes -= len(key) + len(entry.data)


class Clock(Lru):
    """The oldest leaves, but one that was asked for begins anew: FIFO with reinsertion."""

    def get(self, key: bytes, now: float) -> bytes | None:
        entry = self._entries.get(key)
        if entry is not None and now < entry.expires:
            entry.visited = True
            return entry.data
        return None

    def _evict(self) -> None:
        entries = self._entries
        key = next(iter(entries))
        while (entry := entries[key]).visited:
            entry.visited = False
            entries.move_to_end(key)
            key = next(iter(entries))
        self.remove(key)


class Sieve(_Bounded):
    """As CLOCK, but who was asked for keeps its place, and the hand goes on from where it was.

    The order is the one that the near cache keeps.
    """

    def __init__(self, max_entries: int, max_bytes: float = math.inf) -> None:
        super().__init__(max_entries, max_bytes)
        self._entries: dict[bytes, near.NearEntry] = {}
        self._order = near.Sieve()

    def __len__(self) -> int:
        return len(self._entries)

    def get(self, key: bytes, now: float) -> bytes | None:
        entry = self._entries.get(key)
        if entry is not None and now < entry.expires:
            entry.visited = True
            return entry.data
        return None

    def remove(self, key: bytes) -> None:
        entry = self._entries.pop(key, None)
        if entry is not None:
            self._order.remove(entry)
            self.held_bytes -= len(key) + len(entry.data)

    def _add(self, key: bytes, data: bytes, expires: float) -> None:
        self._entries[key] = entry = near.NearEntry(key, 0.0)
        entry.data = data
        entry.expires = expires
        self._order.add(entry)

    def _evict(self) -> None:
        self.remove(self._order.victim().key)


class SieveAskedAgain(Sieve):
    """What the near cache does: once it is full, only who is asked for again comes in."""

    def __init__(self, max_entries: int) -> None:
        super().__init__(max_entries)
        self._size = max_entries
        self._door = near.Doorkeeper(max_entries)

    def put(self, key: bytes, data: bytes, expires: float) -> None:
        if len(self) < self._size or self._door.admits(key):
            super().put(key, data, expires)


class Unbounded:
    """No bound, so no policy: the fewest misses there can be, and the cheapest hit."""

    def __init__(self, _max_entries: int) -> None:
        self._entries: dict[bytes, Entry] = {}

    def __len__(self) -> int:
        return len(self._entries)

    def get(self, key: bytes, now: float) -> bytes | None:
        entry = self._entries.get(key)
        return entry.data if entry is not None and now < entry.expires else None

    def put(self, key: bytes, data: bytes, expires: float) -> None:
        self._entries[key] = Entry(data, expires)

    def remove(self, key: bytes) -> None:
        self._entries.pop(key, None)


class CachetoolsLru(Unbounded):
    """LRU as cachetools has it."""

    def __init__(self, max_entries: int) -> None:
        self._entries: Any = import_module("cachetools").LRUCache(max_entries)


class Theine:
    """W-TinyLFU as theine has it, without its locks: the fastest that it can be."""

    def __init__(self, max_entries: int) -> None:
        self._cache: Any = import_module("theine").Cache(max_entries, nolock=True)

    def __del__(self) -> None:
        # Its maintenance holds it until it is closed.
        self._cache.close()

    def __len__(self) -> int:
        return len(self._cache)

    def get(self, key: bytes, now: float) -> bytes | None:
        entry, found = self._cache.get(key)
        return entry.data if found and now < entry.expires else None

    def put(self, key: bytes, data: bytes, expires: float) -> None:
        self._cache.set(key, Entry(data, expires))

    def remove(self, key: bytes) -> None:
        self._cache.delete(key)


OURS: Mapping[str, type[Lru] | type[Sieve]] = {"LRU": Lru, "CLOCK": Clock, "SIEVE": Sieve}


def every_policy() -> Mapping[str, Callable[[int], Policy]]:
    """Those written here and those of the libraries, under the names that the table shows."""
    return {
        "unbounded": Unbounded,
        **OURS,
        "SIEVE + doorkeeper": SieveAskedAgain,
        f"LRU, cachetools {version('cachetools')}": CachetoolsLru,
        f"W-TinyLFU, theine {version('theine')}": Theine,
    }
