"""The methods of the synchronous API that load missing and stale values."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Coroutine, Iterable
from typing import TYPE_CHECKING, Any, TypeVar, Unpack, overload

from async_redis_cache._common.durations import Timeout
from async_redis_cache._common.pip_services import Context
from async_redis_cache._engine.load_options import Caller, LoadOptions

from .batch_loading import BatchLoader
from .cache_entry import CacheEntry
from .loaders import DataLoader, Loader, ValueLoader

if TYPE_CHECKING:
    from .async_cache import AsyncRedisCache

__all__ = ["SyncLoading"]

T = TypeVar("T")


class SyncLoading(ABC):
    """The loading methods of `RedisCache`. See `AsyncRedisCache` for what each does, takes and raises."""

    _cache: AsyncRedisCache
    _in_thread: bool | Caller = True
    """Where loaders run, if the call does not say it."""

    @abstractmethod
    def _call(self, context: Context, coroutine: Coroutine[Any, Any, T]) -> T:
        """Run a coroutine of the asynchronous cache and return its result."""

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
        """Return the value of a key; if there is none, call the loader, store its result and return that.

        A plain loader runs in a worker thread, or with `in_thread="caller"` in the calling thread. A
        coroutine function runs on the private event loop. Each runs in a copy of the caller's context.
        """
        options: dict[str, Any] = {"in_thread": self._in_thread, **loading}
        load: Any = self._cache.retrieve_or_load
        return self._call(context, load(context, key, loader, timeout, type=type, **options))

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
        """Do what `retrieve_or_load` does, and return the value with its status, age and remaining time."""
        options: dict[str, Any] = {"in_thread": self._in_thread, **loading}
        load: Any = self._cache.retrieve_or_load_entry
        return self._call(context, load(context, key, loader, timeout, type=type, **options))

    @overload
    def retrieve_entry(self, context: Context, key: str, *, type: type[T]) -> CacheEntry[T]: ...
    @overload
    def retrieve_entry(
        self, context: Context, key: str, *, type: Any = None
    ) -> CacheEntry[Any]: ...
    def retrieve_entry(self, context: Context, key: str, *, type: Any = None) -> CacheEntry[Any]:
        """Do what `retrieve` does, and return the value with its status, age and remaining time."""
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
        """Return the values of many keys as a dict in the order of the keys, and load those that are missing."""
        options: dict[str, Any] = {"in_thread": self._in_thread, **loading}
        load: Any = self._cache.retrieve_or_load_many
        return self._call(context, load(context, keys, loader, timeout, type=type, **options))

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
        """Load a value now, even if one is stored or being loaded; store and return it."""
        options: dict[str, Any] = {"in_thread": self._in_thread, **loading}
        load: Any = self._cache.refresh
        return self._call(context, load(context, key, loader, timeout, type=type, **options))
