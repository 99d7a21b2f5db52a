"""`SyncNamespace`: the values of one kind in a `RedisCache`, by short names and with defaults."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from datetime import timedelta
from typing import TYPE_CHECKING, Any, TypeVar, Unpack, overload

from async_redis_cache._common.durations import Forever, Ttl, ttl_milliseconds, ttl_seconds
from async_redis_cache._common.key_rules import LongKeys
from async_redis_cache._engine.key_scan import KeyScan
from async_redis_cache._engine.load_options import LoadOptions
from async_redis_cache._values.stored_none import STORED_NONE, unwrapped

from .batch_loading import BatchLoader
from .cache_entry import CacheEntry
from .loaders import DataLoader, Loader, ValueLoader
from .locks import LockRequest, SyncLock
from .namespace_view import NamespaceView
from .view import next_keys

if TYPE_CHECKING:
    from .decorator import FunctionDecorator

__all__ = ["SyncNamespace"]

D = TypeVar("D")
T = TypeVar("T")


class SyncNamespace(NamespaceView[T]):
    """`Namespace` for a `RedisCache`: the same methods, which block until their result is there.

    `RedisCache.namespace` creates it. See `Namespace` for what each method does, takes and raises.
    """

    @overload
    def get(self, key: str, *, trace_id: str | None = None) -> T | None: ...
    @overload
    def get(self, key: str, default: D, *, trace_id: str | None = None) -> T | D: ...
    def get(self, key: str, default: Any = None, *, trace_id: str | None = None) -> Any:
        """Return the value of a key; `default` if there is none, or if it has expired."""
        value = self._view.retrieve(trace_id, key, type=self._type)
        if value is None:
            return default
        return None if value is STORED_NONE else value

    def set(
        self,
        key: str,
        value: T,
        ttl: Ttl = None,
        *,
        tags: Iterable[str] = (),
        trace_id: str | None = None,
    ) -> None:
        """Store a value. Storing None removes the key, unless the namespace has `cache_none`."""
        timeout = None if ttl is None else ttl_milliseconds(ttl)
        self._view.store(trace_id, key, value, timeout, tags=self._all_tags(tags))

    def add(self, key: str, value: T, ttl: Ttl = None, *, trace_id: str | None = None) -> bool:
        """Store a value if the key has none, and return whether it was stored. The value has no tags."""
        added: bool = self._view.add(trace_id, key, value, ttl_milliseconds(ttl))
        return added

    def incr(
        self, key: str, amount: int = 1, ttl: Ttl = None, *, trace_id: str | None = None
    ) -> int:
        """Add to the integer of a key atomically, and return the result; `ttl` is that of a new value."""
        result: int = self._view.incr(trace_id, key, amount, ttl_milliseconds(ttl))
        return result

    def decr(
        self, key: str, amount: int = 1, ttl: Ttl = None, *, trace_id: str | None = None
    ) -> int:
        """Subtract from the integer of a key atomically, and return the result. See `incr`."""
        result: int = self._view.decr(trace_id, key, amount, ttl_milliseconds(ttl))
        return result

    def delete(self, key: str, *, trace_id: str | None = None) -> bool:
        """Remove a key; return whether it existed."""
        removed: int = self._view.remove_many(trace_id, (key,))
        return removed > 0

    def get_many(self, keys: Iterable[str], *, trace_id: str | None = None) -> dict[str, T]:
        """Return the values of many keys as a dict in the order of the keys, without the keys that have none."""
        values: dict[str, T] = self._view.retrieve_many(trace_id, keys, type=self._type)
        if self._caches_none:
            return {key: unwrapped(value) for key, value in values.items()}
        return values

    def set_many(
        self,
        mapping: Mapping[str, T],
        ttl: Ttl = None,
        *,
        tags: Iterable[str] = (),
        trace_id: str | None = None,
    ) -> None:
        """Store many values, all with the same TTL and tags. This is not a transaction."""
        timeout = ttl_milliseconds(ttl)
        self._view.store_many(trace_id, mapping, timeout, tags=self._all_tags(tags))

    def delete_many(self, keys: Iterable[str], *, trace_id: str | None = None) -> int:
        """Remove many keys; return how many of them existed."""
        removed: int = self._view.remove_many(trace_id, keys)
        return removed

    @overload
    def get_or_load(
        self,
        key: str,
        loader: DataLoader,
        ttl: Ttl = None,
        *,
        trace_id: str | None = None,
        **loading: Unpack[LoadOptions],
    ) -> T: ...
    @overload
    def get_or_load(
        self,
        key: str,
        loader: ValueLoader[T],
        ttl: Ttl = None,
        *,
        trace_id: str | None = None,
        **loading: Unpack[LoadOptions],
    ) -> T: ...
    @overload
    def get_or_load(
        self,
        key: str,
        loader: Loader,
        ttl: Ttl = None,
        *,
        trace_id: str | None = None,
        **loading: Unpack[LoadOptions],
    ) -> T | None: ...
    def get_or_load(
        self,
        key: str,
        loader: Loader,
        ttl: Ttl = None,
        *,
        trace_id: str | None = None,
        **loading: Unpack[LoadOptions],
    ) -> Any:
        """Return the value of a key; if there is none, call the loader, store its result and return that."""
        timeout = None if ttl is None else ttl_milliseconds(ttl)
        if not (self._tags or loading):
            # Without a dict of options, which would cost more than the rest of this method.
            return self._view.retrieve_or_load(trace_id, key, loader, timeout, type=self._type)
        loading = self._defaults.with_tags(loading)
        return self._view.retrieve_or_load(
            trace_id, key, loader, timeout, type=self._type, **loading
        )

    def get_or_load_many(
        self,
        keys: Iterable[str],
        loader: BatchLoader,
        ttl: Ttl = None,
        *,
        trace_id: str | None = None,
        **loading: Unpack[LoadOptions],
    ) -> dict[str, T]:
        """Return the values of many keys as a dict in the order of the keys, and load those that are missing."""
        values: dict[str, T] = self._view.retrieve_or_load_many(
            trace_id,
            keys,
            loader,
            ttl_milliseconds(ttl),
            type=self._type,
            **self._defaults.with_tags(loading),
        )
        return values

    def get_entry(self, key: str, *, trace_id: str | None = None) -> CacheEntry[T]:
        """Do what `get` does, and return the value with its status, age and remaining time in milliseconds."""
        entry: CacheEntry[T] = self._view.retrieve_entry(trace_id, key, type=self._type)
        return entry

    def get_or_load_entry(
        self,
        key: str,
        loader: Loader,
        ttl: Ttl = None,
        *,
        trace_id: str | None = None,
        **loading: Unpack[LoadOptions],
    ) -> CacheEntry[T]:
        """Do what `get_or_load` does, and return the value with its status, age and remaining time in milliseconds."""
        entry: CacheEntry[T] = self._view.retrieve_or_load_entry(
            trace_id,
            key,
            loader,
            ttl_milliseconds(ttl),
            type=self._type,
            **self._defaults.with_tags(loading),
        )
        return entry

    @overload
    def refresh(
        self,
        key: str,
        loader: DataLoader,
        ttl: Ttl = None,
        *,
        trace_id: str | None = None,
        **loading: Unpack[LoadOptions],
    ) -> T: ...
    @overload
    def refresh(
        self,
        key: str,
        loader: ValueLoader[T],
        ttl: Ttl = None,
        *,
        trace_id: str | None = None,
        **loading: Unpack[LoadOptions],
    ) -> T: ...
    @overload
    def refresh(
        self,
        key: str,
        loader: Loader,
        ttl: Ttl = None,
        *,
        trace_id: str | None = None,
        **loading: Unpack[LoadOptions],
    ) -> T | None: ...
    def refresh(
        self,
        key: str,
        loader: Loader,
        ttl: Ttl = None,
        *,
        trace_id: str | None = None,
        **loading: Unpack[LoadOptions],
    ) -> Any:
        """Load a value now, even if one is stored or being loaded; store and return it."""
        return self._view.refresh(
            trace_id,
            key,
            loader,
            ttl_milliseconds(ttl),
            type=self._type,
            **self._defaults.with_tags(loading),
        )

    def touch(self, key: str, ttl: Ttl = None, *, trace_id: str | None = None) -> bool:
        """Set the TTL of a value, from now on; return whether there is one, as `contains` does."""
        touched: bool = self._view.touch(trace_id, key, ttl_milliseconds(ttl))
        return touched

    def ttl(self, key: str, *, trace_id: str | None = None) -> float | Forever | None:
        """Return the seconds until a value expires, FOREVER if it does not, or None if there is no value."""
        left: int | None = self._view.time_to_live(trace_id, key)
        return ttl_seconds(left)

    def contains(self, key: str, *, trace_id: str | None = None) -> bool:
        """Return whether the key has a value, of whatever type. It is fetched to check that it is readable."""
        contained: bool = self._view.contains(trace_id, key)
        return contained

    def lock(
        self,
        key: str,
        ttl: float | timedelta = 10,
        *,
        wait: float | timedelta = 10,
        trace_id: str | None = None,
    ) -> SyncLock:
        """Return a lock, for `with`: of all processes and threads, one holder at a time."""
        request = LockRequest.of(self._view._cache, key, ttl, wait, trace_id)  # noqa: SLF001
        return SyncLock(request, self._view)

    def clear(
        self, *, timeout: float | timedelta | None = None, trace_id: str | None = None
    ) -> int:
        """Remove all values of this namespace and no others; return how many keys were removed."""
        removed: int = self._view.clear(trace_id, ttl_milliseconds(timeout))
        return removed

    def scan(self, *, trace_id: str | None = None) -> Iterator[str]:
        """Yield the keys of this namespace, without its name. For tools: all keys of the server are scanned."""
        scan, view = KeyScan(), self._view
        while (page := view._call(trace_id, next_keys(view._cache, scan, trace_id))) is not None:  # noqa: SLF001
            yield from page

    def invalidate_tags(self, *tags: str, trace_id: str | None = None) -> None:
        """Invalidate all values that have any of these tags. Tags belong to the cache, so those of others too."""
        if tags:
            self._view.invalidate_tags(trace_id, *tags)

    def cached(
        self,
        key: str | None = None,
        *,
        ttl: Ttl = None,
        type: Any = None,
        long_keys: LongKeys | None = None,
        **loading: Unpack[LoadOptions],
    ) -> FunctionDecorator:
        """Cache the results of a plain function in this namespace, as `cached` does."""
        decorator: FunctionDecorator = self._decorator(key, ttl, type, long_keys, loading)
        return decorator


# See the end of `async_redis_cache/__init__.py`.
SyncNamespace.__module__ = "async_redis_cache"
