"""A view of a `RedisCache`: what `SyncNamespace` and its cached functions call."""

from __future__ import annotations

from collections.abc import Coroutine, Iterable, Mapping
from typing import Any, TypeVar

from async_redis_cache._common.durations import Timeout
from async_redis_cache._common.pip_services import Context
from async_redis_cache._common.stats import CacheStats
from async_redis_cache._engine.key_scan import KeyScan

from .sync_atomic import SyncAtomic
from .view import ViewOptions, clear_keys, next_keys, view_of

__all__ = ["SyncView"]

T = TypeVar("T")


class SyncView(SyncAtomic):
    """The methods of a `RedisCache` that a namespace calls, over a view of its asynchronous cache.

    Args:
        cache: the `RedisCache`, which makes the calls.
        name: of the counters.
        options: of the view.
    """

    def __init__(self, cache: Any, name: str, options: ViewOptions) -> None:
        self._parent = cache
        self._cache = view_of(cache._cache, name, options)  # noqa: SLF001

    def _call(self, context: Context, coroutine: Coroutine[Any, Any, T]) -> T:
        returned: T = self._parent._call(context, coroutine)  # noqa: SLF001
        return returned

    def store(
        self, context: Context, key: str, value: Any, timeout: Timeout, *, tags: Iterable[str]
    ) -> None:
        """See `RedisCache`."""
        self._call(context, self._cache.store(context, key, value, timeout, tags=tags))

    def retrieve(self, context: Context, key: str, *, type: Any) -> Any:
        """See `RedisCache`."""
        return self._call(context, self._cache.retrieve(context, key, type=type))

    def remove(self, context: Context, key: str) -> Any:
        """See `RedisCache`."""
        return self._call(context, self._cache.remove(context, key))

    def store_many(
        self,
        context: Context,
        mapping: Mapping[str, Any],
        timeout: Timeout,
        *,
        tags: Iterable[str],
    ) -> None:
        """See `RedisCache`."""
        self._call(context, self._cache.store_many(context, mapping, timeout, tags=tags))

    def retrieve_many(self, context: Context, keys: Iterable[str], *, type: Any) -> Any:
        """See `RedisCache`."""
        return self._call(context, self._cache.retrieve_many(context, keys, type=type))

    def remove_many(self, context: Context, keys: Iterable[str]) -> int:
        """See `RedisCache`."""
        return self._call(context, self._cache.remove_many(context, keys))

    def invalidate_tags(self, context: Context, *tags: str) -> None:
        """See `RedisCache`."""
        self._call(context, self._cache.invalidate_tags(context, *tags))

    def contains(self, context: Context, key: str) -> bool:
        """See `RedisCache`."""
        return self._call(context, self._cache.contains(context, key))

    def touch(self, context: Context, key: str, timeout: Timeout) -> bool:
        """See `RedisCache`."""
        return self._call(context, self._cache.touch(context, key, timeout))

    def time_to_live(self, context: Context, key: str) -> int | None:
        """See `RedisCache`."""
        return self._call(context, self._cache.time_to_live(context, key))

    def clear_keys(self, context: Context) -> int:
        """Remove all keys of the view; return how many there were."""
        return self._call(context, clear_keys(self._cache, context))

    def next_keys(self, scan: KeyScan, context: Context) -> list[str] | None:
        """Return the next keys of a scan; None after the last."""
        return self._call(context, next_keys(self._cache, scan, context))

    def stats(self) -> CacheStats:
        """See `RedisCache`."""
        return self._cache.stats()
