"""What the API gives a load, and what a load gives back.

Loads run in the engine, which handles bytes only. `LoadSource` is what a load needs of the layer above: the
loader, and a judgement about stored data.
"""

from __future__ import annotations

from typing import Any, NamedTuple, Protocol

from async_redis_cache._common.stats import CacheStats

__all__ = ["LoadResult", "LoadSource", "LoadSpec", "NotStorable", "StoredValue"]


class NotStorable(NamedTuple):
    """A result that cannot be stored, as the loader returned it.

    Attributes:
        value: the loader's own object, which all callers of the load share.
    """

    value: Any


class LoadResult(NamedTuple):
    """What a loader returned, serialized.

    Attributes:
        kind: kind of the record to store, `VALUE` or `MISSING`.
        payload: as for `store`.
        ttl: milliseconds for which it is fresh.
        stale_ttl: milliseconds for which it is kept after that.
        is_kept: whether to store it.
        load_duration: microseconds that the loader took.
        tags: tags of the value, as on the server.
        uncacheable: the result itself if it cannot be stored; the payload is then empty.
    """

    kind: bytes
    payload: bytes
    ttl: int
    stale_ttl: int
    is_kept: bool
    load_duration: int = 0
    tags: tuple[bytes, ...] = ()
    uncacheable: NotStorable | None = None


class StoredValue(bytes):
    """Data that another process has stored.

    Attributes:
        since: when the load that read it began, see `LoadLease`.
    """

    since: float

    @classmethod
    def of(cls, data: bytes, since: float) -> StoredValue:
        """Mark this data as read by a load that began then."""
        stored = cls(data)
        stored.since = since
        return stored


class LoadSource(Protocol):
    """One loading call, as the load sees it. Its methods are called on the event loop."""

    @property
    def counters(self) -> CacheStats:
        """Count its load, if it starts one."""
        ...

    async def call_loader(self) -> LoadResult:
        """Call the loader, and serialize its result.

        Raises:
            BaseException: raised by the loader.
            CacheError: the result is not acceptable.
        """
        ...

    async def accepts(self, data: bytes, since: float) -> bool:
        """Return whether stored data is a value that the caller can use instead of loading.

        Args:
            data: read from the server.
            since: when the load that read it began, see `LoadLease`.
        """
        ...

    def may_change_tags(self) -> bool:
        """Return whether the loader can set the tags of its result."""
        ...

    def on_decided(self) -> None:
        """Note that it is decided whether this key is loaded here; may be called repeatedly.

        Called as soon as it is known that the key is not loaded, or that another process loads it, and at the
        latest when the load ends. Batch loading calls its loader once this is known of every key.
        """
        ...

    def waits_for_others(self) -> bool:
        """Return whether `on_decided` has an effect: whether this key is one of a batch."""
        ...

    def idle_time(self) -> float:
        """Return the seconds of `call_loader` that passed before the loader was called."""
        ...

    def loader_name(self) -> str:
        """Return the name of the loader, for log records."""
        ...


class LoadSpec(NamedTuple):
    """How to load a key.

    Attributes:
        source: the call that loads.
        read: data that the caller has read and that `source` does not accept; empty if there was none; None
            if the server was not reachable.
        hard_timeout: seconds that the load may take, and that a caller waits for it.
        force: whether to load regardless of what is stored and of other loads.
        tags: tags that the caller has given the value.
        strict: whether to fail if the server cannot grant a lease.
        since: when the call began, by the loop's clock; None for now.
    """

    source: LoadSource
    read: bytes | None
    hard_timeout: float
    force: bool = False
    tags: tuple[bytes, ...] = ()
    strict: bool = False
    since: float | None = None
