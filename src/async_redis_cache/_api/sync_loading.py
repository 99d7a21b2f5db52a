"""The part of the synchronous door that loads what is not there."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Coroutine, Iterable
from typing import Any, TypeVar, Unpack, overload

from async_redis_cache._common.durations import Timeout
from async_redis_cache._common.pip_services import Context
from async_redis_cache._engine.load_options import LoadOptions

from .async_cache import AsyncRedisCache
from .batch_loading import BatchLoader
from .cache_entry import CacheEntry
from .loaders import DataLoader, Loader, ValueLoader

__all__ = ["SyncLoading"]

T = TypeVar("T")


class SyncLoading(ABC):
    """See `AsyncRedisCache` for what each method does, takes and raises."""

    _cache: AsyncRedisCache

    @abstractmethod
    def _call(self, context: Context, coroutine: Coroutine[Any, Any, T]) -> T:
        """What this coroutine of the asynchronous cache gives."""

    @overload
    def retrieve_or_load(
        self,
        context: Context,
        key: str,
        loader: DataLoader,
        timeout: Timeout = None,
        *,
        type: type[T],
        **loading: Unpack[LoadOptions],
    ) -> T: ...
    @overload
    def retrieve_or_load(
        self,
        context: Context,
        key: str,
        loader: ValueLoader[T],
        timeout: Timeout = None,
        *,
        type: type[T],
        **loading: Unpack[LoadOptions],
    ) -> T: ...
    @overload
    def retrieve_or_load(
        self,
        context: Context,
        key: str,
        loader: Loader,
        timeout: Timeout = None,
        *,
        type: type[T],
        **loading: Unpack[LoadOptions],
    ) -> T | None: ...
    @overload
    def retrieve_or_load(
        self,
        context: Context,
        key: str,
        loader: Loader,
        timeout: Timeout = None,
        *,
        type: Any = None,
        **loading: Unpack[LoadOptions],
    ) -> Any: ...
    def retrieve_or_load(
        self,
        context: Context,
        key: str,
        loader: Loader,
        timeout: Timeout = None,
        *,
        type: Any = None,
        **loading: Unpack[LoadOptions],
    ) -> Any:
        """The value stored under the key; where there is none, what the loader gives, stored.

        A plain loader runs in a worker thread, or with `in_thread="caller"` in the calling thread; a
        coroutine function runs on the private event loop. Each runs in a copy of the caller's context.
        """
        given: dict[str, Any] = {"in_thread": True, **loading}
        load: Any = self._cache.retrieve_or_load
        return self._call(context, load(context, key, loader, timeout, type=type, **given))

    @overload
    def retrieve_or_load_entry(
        self,
        context: Context,
        key: str,
        loader: Loader,
        timeout: Timeout = None,
        *,
        type: type[T],
        **loading: Unpack[LoadOptions],
    ) -> CacheEntry[T]: ...
    @overload
    def retrieve_or_load_entry(
        self,
        context: Context,
        key: str,
        loader: Loader,
        timeout: Timeout = None,
        *,
        type: Any = None,
        **loading: Unpack[LoadOptions],
    ) -> CacheEntry[Any]: ...
    def retrieve_or_load_entry(
        self,
        context: Context,
        key: str,
        loader: Loader,
        timeout: Timeout = None,
        *,
        type: Any = None,
        **loading: Unpack[LoadOptions],
    ) -> CacheEntry[Any]:
        """As `retrieve_or_load`, with the value's status, age and remaining life."""
        given: dict[str, Any] = {"in_thread": True, **loading}
        load: Any = self._cache.retrieve_or_load_entry
        return self._call(context, load(context, key, loader, timeout, type=type, **given))

    @overload
    def retrieve_entry(self, context: Context, key: str, *, type: type[T]) -> CacheEntry[T]: ...
    @overload
    def retrieve_entry(
        self, context: Context, key: str, *, type: Any = None
    ) -> CacheEntry[Any]: ...
    def retrieve_entry(self, context: Context, key: str, *, type: Any = None) -> CacheEntry[Any]:
        """As `retrieve`, with the value's status, age and remaining life."""
        return self._call(context, self._cache.retrieve_entry(context, key, type=type))

    @overload
    def retrieve_or_load_many(
        self,
        context: Context,
        keys: Iterable[str],
        loader: BatchLoader,
        timeout: Timeout = None,
        *,
        type: type[T],
        **loading: Unpack[LoadOptions],
    ) -> dict[str, T]: ...
    @overload
    def retrieve_or_load_many(
        self,
        context: Context,
        keys: Iterable[str],
        loader: BatchLoader,
        timeout: Timeout = None,
        *,
        type: Any = None,
        **loading: Unpack[LoadOptions],
    ) -> dict[str, Any]: ...
    def retrieve_or_load_many(
        self,
        context: Context,
        keys: Iterable[str],
        loader: BatchLoader,
        timeout: Timeout = None,
        *,
        type: Any = None,
        **loading: Unpack[LoadOptions],
    ) -> dict[str, Any]:
        """The values of those keys that have one, by key, in the order of the keys."""
        given: dict[str, Any] = {"in_thread": True, **loading}
        load: Any = self._cache.retrieve_or_load_many
        return self._call(context, load(context, keys, loader, timeout, type=type, **given))

    @overload
    def refresh(
        self,
        context: Context,
        key: str,
        loader: DataLoader,
        timeout: Timeout = None,
        *,
        type: type[T],
        **loading: Unpack[LoadOptions],
    ) -> T: ...
    @overload
    def refresh(
        self,
        context: Context,
        key: str,
        loader: ValueLoader[T],
        timeout: Timeout = None,
        *,
        type: type[T],
        **loading: Unpack[LoadOptions],
    ) -> T: ...
    @overload
    def refresh(
        self,
        context: Context,
        key: str,
        loader: Loader,
        timeout: Timeout = None,
        *,
        type: type[T],
        **loading: Unpack[LoadOptions],
    ) -> T | None: ...
    @overload
    def refresh(
        self,
        context: Context,
        key: str,
        loader: Loader,
        timeout: Timeout = None,
        *,
        type: Any = None,
        **loading: Unpack[LoadOptions],
    ) -> Any: ...
    def refresh(
        self,
        context: Context,
        key: str,
        loader: Loader,
        timeout: Timeout = None,
        *,
        type: Any = None,
        **loading: Unpack[LoadOptions],
    ) -> Any:
        """Load a value now, whatever is stored and whoever else loads it; return it."""
        given: dict[str, Any] = {"in_thread": True, **loading}
        load: Any = self._cache.refresh
        return self._call(context, load(context, key, loader, timeout, type=type, **given))
