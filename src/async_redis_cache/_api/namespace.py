"""`Namespace`: the values of one kind in an `AsyncRedisCache`, by short names and with defaults."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable, Mapping
from datetime import timedelta
from typing import TYPE_CHECKING, Any, TypeVar, Unpack, overload

from async_redis_cache._common.durations import Forever, Ttl, ttl_milliseconds, ttl_seconds
from async_redis_cache._common.key_rules import LongKeys
from async_redis_cache._engine.key_scan import KeyScan
from async_redis_cache._engine.load_options import LoadOptions
from async_redis_cache._values.stored_none import STORED_NONE, unwrapped

from .cache_entry import CacheEntry
from .locks import Lock, LockRequest
from .namespace_loading import NamespaceLoading
from .view import next_keys

if TYPE_CHECKING:
    from .decorator import CoroutineDecorator

__all__ = ["Namespace"]

D = TypeVar("D")
T = TypeVar("T")


class Namespace(NamespaceLoading[T]):
    """The values of one kind in an `AsyncRedisCache`: their keys begin with the name of the namespace.

    `AsyncRedisCache.namespace` creates it, before or after the cache is opened. It is open while its cache is. Its
    methods do what those of the cache do, with the namespace's defaults. `ttl` is in seconds, a timedelta or FOREVER; the load
    options, and the fields of a `CacheEntry`, are in milliseconds as in the methods of the cache.

    Each method takes `trace_id`, for the errors that it raises; by default it is that of the running OpenTelemetry span.
    """

    @overload
    async def get(self, key: str, *, trace_id: str | None = None) -> T | None: ...
    @overload
    async def get(self, key: str, default: D, *, trace_id: str | None = None) -> T | D: ...
    async def get(self, key: str, default: Any = None, *, trace_id: str | None = None) -> Any:
        """Return the value of a key; `default` if there is none, or if it has expired.

        Args:
            key: text of 1 to 512 bytes in UTF-8, without control characters.
            default: returned where there is no value.
            trace_id: for errors.

        Raises:
            CacheInputError: BAD_KEY, BAD_TYPE.
            CacheError: the key could not be read.
        """
        value = await self._view.retrieve(trace_id, key, type=self._type)
        if value is None:
            return default
        return None if value is STORED_NONE else value

    async def set(
        self,
        key: str,
        value: T,
        ttl: Ttl = None,
        *,
        tags: Iterable[str] = (),
        trace_id: str | None = None,
    ) -> None:
        """Store a value. Storing None removes the key, unless the namespace has `cache_none`.

        Args:
            key: as for `get`.
            value: any value that the serializer accepts.
            ttl: seconds until the value expires, a timedelta, or FOREVER; None for the default of the namespace.
            tags: tags to invalidate the value by, added to those of the namespace.
            trace_id: for errors.

        Raises:
            CacheError: as for `AsyncRedisCache.store`.
        """
        timeout = None if ttl is None else ttl_milliseconds(ttl)
        await self._view.store(trace_id, key, value, timeout, tags=self._all_tags(tags))

    async def add(
        self, key: str, value: T, ttl: Ttl = None, *, trace_id: str | None = None
    ) -> bool:
        """Store a value if the key has none, and return whether it was stored. The value has no tags.

        Raises:
            CacheError: as for `AsyncRedisCache.add`.
        """
        added: bool = await self._view.add(trace_id, key, value, ttl_milliseconds(ttl))
        return added

    async def incr(
        self, key: str, amount: int = 1, ttl: Ttl = None, *, trace_id: str | None = None
    ) -> int:
        """Add to the integer of a key atomically, and return the result; `ttl` is that of a new value.

        Raises:
            CacheError: as for `AsyncRedisCache.incr`.
        """
        result: int = await self._view.incr(trace_id, key, amount, ttl_milliseconds(ttl))
        return result

    async def decr(
        self, key: str, amount: int = 1, ttl: Ttl = None, *, trace_id: str | None = None
    ) -> int:
        """Subtract from the integer of a key atomically, and return the result. See `incr`.

        Raises:
            CacheError: as for `AsyncRedisCache.incr`.
        """
        result: int = await self._view.decr(trace_id, key, amount, ttl_milliseconds(ttl))
        return result

    async def delete(self, key: str, *, trace_id: str | None = None) -> bool:
        """Remove a key; return whether it existed.

        Raises:
            CacheError: as for `AsyncRedisCache.remove`.
        """
        removed: int = await self._view.remove_many(trace_id, (key,))
        return removed > 0

    async def get_many(self, keys: Iterable[str], *, trace_id: str | None = None) -> dict[str, T]:
        """Return the values of many keys as a dict in the order of the keys, without the keys that have none.

        Raises:
            CacheError: as for `get`.
        """
        values: dict[str, T] = await self._view.retrieve_many(trace_id, keys, type=self._type)
        if self._caches_none:
            return {key: unwrapped(value) for key, value in values.items()}
        return values

    async def set_many(
        self,
        mapping: Mapping[str, T],
        ttl: Ttl = None,
        *,
        tags: Iterable[str] = (),
        trace_id: str | None = None,
    ) -> None:
        """Store many values, all with the same TTL and tags. This is not a transaction.

        Raises:
            CacheError: as for `set`; some values may have been stored.
        """
        timeout = ttl_milliseconds(ttl)
        await self._view.store_many(trace_id, mapping, timeout, tags=self._all_tags(tags))

    async def delete_many(self, keys: Iterable[str], *, trace_id: str | None = None) -> int:
        """Remove many keys; return how many of them existed.

        Raises:
            CacheError: as for `delete`; some keys may have been removed.
        """
        removed: int = await self._view.remove_many(trace_id, keys)
        return removed

    async def get_entry(self, key: str, *, trace_id: str | None = None) -> CacheEntry[T]:
        """Do what `get` does, and return the value with its status, age and remaining time in milliseconds.

        Raises:
            CacheError: as for `get`.
        """
        entry: CacheEntry[T] = await self._view.retrieve_entry(trace_id, key, type=self._type)
        return entry

    async def touch(self, key: str, ttl: Ttl = None, *, trace_id: str | None = None) -> bool:
        """Set the TTL of a value, from now on; return whether there is one, as `contains` does.

        Raises:
            CacheError: as for `set`.
        """
        touched: bool = await self._view.touch(trace_id, key, ttl_milliseconds(ttl))
        return touched

    async def ttl(self, key: str, *, trace_id: str | None = None) -> float | Forever | None:
        """Return the seconds until a value expires, FOREVER if it does not, or None if there is no value.

        Raises:
            CacheError: as for `get`.
        """
        left: int | None = await self._view.time_to_live(trace_id, key)
        return ttl_seconds(left)

    async def contains(self, key: str, *, trace_id: str | None = None) -> bool:
        """Return whether the key has a value, of whatever type. It is fetched to check that it is readable.

        Raises:
            CacheError: as for `get`.
        """
        contained: bool = await self._view.contains(trace_id, key)
        return contained

    def lock(
        self,
        key: str,
        ttl: float | timedelta = 10,
        *,
        wait: float | timedelta = 10,
        trace_id: str | None = None,
    ) -> Lock:
        """Return a lock, for `async with`: of all processes, one holder at a time.

        It saves effort, such as a report that need not be made twice. It does not make sure of anything: a holder that
        is suspended for longer than `ttl`, or a failover, can let two work at once. What must not happen twice has to
        be protected by the resource, with the `fencing_number` of the lock.

        While it is held, the lock is renewed, however long the block takes; `ttl` is how long others wait for a holder
        that died. It is independent of the value of the key. It is not reentrant.

        Args:
            key: as for `get`.
            ttl: seconds until the lock expires without a renewal, or a timedelta; at most an hour.
            wait: seconds to wait while another holds it, or a timedelta; 0 to try once.
            trace_id: for errors.

        Raises:
            CacheInputError: BAD_TIMEOUT; from `async with`, BAD_KEY.
            CacheLockError: from `async with`: LOCK_TIMEOUT, another held it all the time; LOCK_LOST at the end of the
                block, if it was lost meanwhile. `is_held` and `raise_if_lost` of the lock tell it earlier.
            CacheError: from `async with`, whatever `options.fail_open` is: the lock could not be requested.
        """
        return Lock(LockRequest.of(self._view, key, ttl, wait, trace_id))

    async def clear(
        self, *, timeout: float | timedelta | None = None, trace_id: str | None = None
    ) -> int:
        """Remove all values of this namespace and no others; return how many keys were removed.

        The keys of the server are scanned for those of the namespace, so it takes time in proportion to all keys of
        the server. What is being loaded meanwhile, in any process, is returned to its callers and not stored.

        Args:
            timeout: seconds, or a timedelta, for the whole call; None for `options.command_timeout`.
            trace_id: for errors.

        Raises:
            CacheError: some values may have been removed.
        """
        removed: int = await self._view.clear(trace_id, ttl_milliseconds(timeout))
        return removed

    async def scan(self, *, trace_id: str | None = None) -> AsyncIterator[str]:
        """Yield the keys of this namespace, without its name. For tools: all keys of the server are scanned.

        A key that exists all the time is yielded at least once; one that is stored or removed meanwhile may be
        yielded or not. Keys that are being loaded, and those of values that are stale or invalidated, are included.

        Raises:
            CacheError: the server did not reply.
        """
        scan = KeyScan()
        while (page := await next_keys(self._view, scan, trace_id)) is not None:
            for key in page:
                yield key

    async def invalidate_tags(self, *tags: str, trace_id: str | None = None) -> None:
        """Invalidate all values that have any of these tags. Tags belong to the cache, so those of others too.

        Raises:
            CacheError: as for `AsyncRedisCache.invalidate_tags`.
        """
        if tags:
            await self._view.invalidate_tags(trace_id, *tags)

    def cached(
        self,
        key: str | None = None,
        *,
        ttl: Ttl = None,
        type: Any = None,
        long_keys: LongKeys | None = None,
        **loading: Unpack[LoadOptions],
    ) -> CoroutineDecorator:
        """Cache the results of a coroutine function in this namespace, as `cached` does.

        Args:
            key: a template over the arguments, such as "{product_id}"; by default the name of the function and its
                arguments.
            ttl: as for `set`, of the results.
            type: the type that results are validated as; by default the annotated return type, or else that of the
                namespace.
            long_keys: as for the namespace, for this function.
            **loading: as for `get_or_load`. Tags are templates.

        Raises:
            TypeError, ValueError, CacheInputError: as for `cached`.
        """
        decorator: CoroutineDecorator = self._decorator(key, ttl, type, long_keys, loading)
        return decorator
