"""The statistics of a cache.

Threads that share a `RedisCache` increment the fields without a lock: the interpreter switches threads at function calls
and loop iterations, and `counters.hits += 1`, with a slot and an int, contains neither. Without the global interpreter
lock a count could be too low, which would affect nothing else.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from dataclasses import dataclass, fields, replace
from typing import ClassVar, Final, Generic, NamedTuple, TypeVar, overload

__all__ = ["COUNTED_BY_PART", "DEPRECATED_NAMES", "LEVELS", "CacheStats", "Counters", "Part"]

_T = TypeVar("_T")

LEVELS: Final = frozenset(
    {
        "loader_threads",
        "pending_invalidations",
        "open_circuits",
        "near_entries",
        "near_bytes",
        "near_connected",
    }
)
"""The fields that hold a current level. All other fields only grow."""

COUNTED_BY_PART: Final = (
    *("hits", "misses", "stores", "removals", "stale_hits", "errors", "unreadable"),
    *("loads", "load_failures", "refreshes", "superseded_loads", "uncacheable_results"),
)
"""The fields that the calls of a namespace or a cached function count in counters of their own. The others concern
connections, the near cache and other things that all calls of a cache share."""
_MOST_PARTS: Final = 1000

DEPRECATED_NAMES: Final = {
    "uncacheable_results": "not_kept",
    "superseded_loads": "overtaken",
    "pending_invalidations": "owed",
    "open_circuits": "breakers_open",
    "near_connected": "near_trusted",
}
"""By field, its former name, kept for one release: as a read-only attribute of `CacheStats`, as a counter of
the container, and as a metric."""


class _DeprecatedName(Generic[_T]):
    """An attribute of `CacheStats` that warns and reads the field which replaced it."""

    def __set_name__(self, owner: type, name: str) -> None:
        self._old = name
        (self._new,) = [new for new, old in DEPRECATED_NAMES.items() if old == name]

    @overload
    def __get__(self, stats: None, owner: type) -> _DeprecatedName[_T]: ...
    @overload
    def __get__(self, stats: CacheStats, owner: type) -> _T: ...
    def __get__(self, stats: CacheStats | None, owner: type) -> _DeprecatedName[_T] | _T:
        if stats is None:
            return self
        warnings.warn(
            f"`CacheStats.{self._old}` is deprecated: use `{self._new}`",
            DeprecationWarning,
            stacklevel=2,
        )
        value: _T = getattr(stats, self._new)
        return value


@dataclass(slots=True, kw_only=True)
class CacheStats:
    """The counters and levels of a cache since it was created, in this process alone.

    Counters only grow, and `close` does not reset them; fields that say "now" hold a current level. A counter is
    incremented after the event that it counts.
    """

    hits: int = 0
    """Keys whose fresh value was returned, near hits included. Counted by the calls that read and
    those that load, once for each key."""
    misses: int = 0
    """Keys without a value to return: missing, expired, invalidated or unreadable; and each key
    while the server is unreachable, where `retrieve` or a call that loads goes on without it. A
    stale value that is returned counts as `stale_hits`, not here."""
    stores: int = 0
    """Values that the server has acknowledged to `store` and `store_many`. What a loader has loaded
    is counted by `loads`."""
    removals: int = 0
    """Values that existed and were removed by `remove`, `remove_many`, `clear` or storing None."""
    evictions: int = 0
    """Values that this process's stores and loads evicted to keep `options.max_size`. What the
    server evicts by itself, for its `maxmemory`, is not included."""
    errors: int = 0
    """Calls that ended in a `CacheError` of any kind, whether it was raised or the call returned as
    from an empty cache (`fail_open`). An exception of a loader is not one."""
    unreadable: int = 0
    """Values that could not be decoded, and were returned as None: foreign, damaged, unsigned,
    not of the type that was requested, or too large to be read with others. Each time one is read."""
    round_trips: int = 0
    """Pipelines sent to the server. Calls that wait at the same time share one."""
    batched_calls: int = 0
    """Calls that shared their pipeline with another call."""
    retries: int = 0
    """Calls sent, or queued to be sent, again after a failure that allows it."""
    connects: int = 0
    """Connections opened for calls, the first ones included; the invalidation channel of the near
    cache is not."""
    stale_hits: int = 0
    """Stale values returned by the calls that load, once for each key."""
    loads: int = 0
    """Keys for which a loader was called, background refreshes included. Callers that join a load
    in flight are not counted."""
    load_failures: int = 0
    """Of the `loads`, those that ended in an error or a timeout."""
    refused_loads: int = 0
    """Loads refused because as many threads as `loading.max_threads` allows were running loaders."""
    loader_threads: int = 0
    """Threads that run loaders now, those included whose load has ended: a thread cannot be
    cancelled."""
    uncacheable_results: int = 0
    """Results of loaders that were returned and not stored: too large, or not serializable."""
    refreshes: int = 0
    """Loads started in the background for a value that is still fresh (`refresh_at`,
    `early_refresh`)."""
    superseded_loads: int = 0
    """Loaded values that were returned and not stored, because the key was changed during the load."""
    pending_invalidations: int = 0
    """Invalidations pending now: keys whose change failed or was refused. Until they are removed,
    no value is returned for them."""
    invalidations_dropped: int = 0
    """Pending invalidations that were given up: beyond 10,000 the earliest, and those left at
    `close`. Their old values can be read again until they expire."""
    open_circuits: int = 0
    """Servers whose circuit is open now: the calls that load skip them."""
    near_hits: int = 0
    """Keys answered from the near cache, without a round trip. They are in `hits` too, once they
    are decoded."""
    near_misses: int = 0
    """Keys looked up in the near cache and not answered from it."""
    near_invalidations: int = 0
    """Keys that the server reported as changed, whether the near cache held them or not."""
    near_flushes: int = 0
    """Times that the near cache was emptied as a whole: by `clear`, by a flush of the server, or
    because the invalidation channel was lost, silent for two heartbeats, or flooded."""
    near_evictions: int = 0
    """Entries evicted from the near cache to make room."""
    near_entries: int = 0
    """Entries that the near cache holds now."""
    near_bytes: int = 0
    """Memory that they take now, in bytes, estimated: keys, data, and a fixed amount for each."""
    near_connected: bool = False
    """Whether the invalidation channel is active now, so that the near cache may answer."""

    # Class variables, so that the dataclass does not take them for fields.
    not_kept: ClassVar[_DeprecatedName[int]] = _DeprecatedName()
    """Deprecated: use `uncacheable_results`."""
    overtaken: ClassVar[_DeprecatedName[int]] = _DeprecatedName()
    """Deprecated: use `superseded_loads`."""
    owed: ClassVar[_DeprecatedName[int]] = _DeprecatedName()
    """Deprecated: use `pending_invalidations`."""
    breakers_open: ClassVar[_DeprecatedName[int]] = _DeprecatedName()
    """Deprecated: use `open_circuits`."""
    near_trusted: ClassVar[_DeprecatedName[bool]] = _DeprecatedName()
    """Deprecated: use `near_connected`."""

    @property
    def hit_ratio(self) -> float:
        """The share of keys whose value, fresh or stale, was returned without waiting for a load; 0 before any was read."""
        returned = self.hits + self.stale_hits
        return returned / (returned + self.misses) if returned else 0.0

    def snapshot(self) -> CacheStats:
        """Return a copy."""
        return replace(self)


class Part(NamedTuple):
    """The calls that have counters of their own.

    Attributes:
        namespace: the name of their namespace; empty for the calls of the cache itself.
        function: the name of their cached function; empty for other calls.
    """

    namespace: str = ""
    function: str = ""


_WHOLE: Final = Part()


class Counters(CacheStats):
    """The counters of a cache while it counts, with those of its parts: namespaces and cached functions.

    Each event is counted once: by the part whose call it belongs to, if it has one. `snapshot` adds the parts.

    Args:
        part: whose counters these are.
    """

    __slots__ = ("_parts", "part")

    def __init__(self, part: Part = _WHOLE) -> None:
        super().__init__()
        self.part = part
        self._parts: dict[Part, Counters] = {}

    def counters_of(self, part: Part) -> Counters:
        """Return the counters of a part, always the same; these counters once there are 1000 parts.

        The function of a part is one of this namespace.

        The names of namespaces may come from data, such as those of tenants, and the counters of parts are kept.
        """
        part = Part(part.namespace or self.part.namespace, part.function)
        counters = self._parts.get(part)
        if counters is None:
            if len(self._parts) >= _MOST_PARTS:
                return self
            # Two threads that ask for the same part get the same counters.
            counters = self._parts.setdefault(part, type(self)(part))
        return counters

    def each(self) -> Iterator[Counters]:
        """Yield these counters, and those of all parts."""
        yield self
        for counters in tuple(self._parts.values()):
            yield from counters.each()

    def snapshot(self) -> CacheStats:
        """Return a copy, with what the parts have counted."""
        copy = CacheStats(**{field.name: getattr(self, field.name) for field in fields(CacheStats)})
        for counters in self.each():
            if counters is not self:
                for name in COUNTED_BY_PART:
                    setattr(copy, name, getattr(copy, name) + getattr(counters, name))
        return copy
