"""The loading methods of `Namespace`."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, TypeVar, Unpack, overload

from async_redis_cache._common.durations import Ttl, ttl_milliseconds
from async_redis_cache._engine.load_options import LoadOptions

from .batch_loading import BatchLoader
from .cache_entry import CacheEntry
from .loaders import DataLoader, Loader, ValueLoader
from .namespace_view import NamespaceView

__all__ = ["NamespaceLoading"]

T = TypeVar("T")


class NamespaceLoading(NamespaceView[T]):
    """A namespace of an `AsyncRedisCache`, with the methods that load missing values."""

    @overload
    async def get_or_load(
        self,
        key: str,
        loader: DataLoader,
        ttl: Ttl = None,
        *,
        trace_id: str | None = None,
        **loading: Unpack[LoadOptions],
    ) -> T: ...
    @overload
    async def get_or_load(
        self,
        key: str,
        loader: ValueLoader[T],
        ttl: Ttl = None,
        *,
        trace_id: str | None = None,
        **loading: Unpack[LoadOptions],
    ) -> T: ...
    @overload
    async def get_or_load(
        self,
        key: str,
        loader: Loader,
        ttl: Ttl = None,
        *,
        trace_id: str | None = None,
        **loading: Unpack[LoadOptions],
    ) -> T | None: ...
    async def get_or_load(
        self,
        key: str,
        loader: Loader,
        ttl: Ttl = None,
        *,
        trace_id: str | None = None,
        **loading: Unpack[LoadOptions],
    ) -> Any:
        """Return the value of a key; if there is none, call the loader, store its result and return that.

        Concurrent callers share one load, in this process and in others.

        Args:
            key: as for `get`.
            loader: a function or a coroutine function that returns the value, or None if there is none. If it has a
                required parameter, it is called with a `Load`, whose `key` is that of the namespace.
            ttl: as for `set`, of the loaded value.
            trace_id: for errors.
            **loading: see `LoadOptions`; the other ones are as in the namespace. Tags are added to those of the
                namespace.

        Raises:
            CacheError: as for `AsyncRedisCache.retrieve_or_load`.
            BaseException: the exception of the loader.
        """
        timeout = None if ttl is None else ttl_milliseconds(ttl)
        if not (self._tags or loading):
            # Without a dict of options, which would cost more than the rest of this method.
            return await self._view.retrieve_or_load(
                trace_id, key, loader, timeout, type=self._type
            )
        loading = self._defaults.with_tags(loading)
        return await self._view.retrieve_or_load(
            trace_id, key, loader, timeout, type=self._type, **loading
        )

    async def get_or_load_many(
        self,
        keys: Iterable[str],
        loader: BatchLoader,
        ttl: Ttl = None,
        *,
        trace_id: str | None = None,
        **loading: Unpack[LoadOptions],
    ) -> dict[str, T]:
        """Return the values of many keys as a dict in the order of the keys, and load those that are missing.

        Args:
            keys: as for `get`.
            loader: a function of a list of keys that returns a mapping of keys to values, or an awaitable of one. A
                key that is not in the mapping has no value.
            ttl: as for `set`.
            trace_id: for errors.
            **loading: as for `get_or_load`.

        Raises:
            CacheError: as for `get_or_load`.
            Exception: the exception of the loader, if a key has no value because of it.
        """
        values: dict[str, T] = await self._view.retrieve_or_load_many(
            trace_id,
            keys,
            loader,
            ttl_milliseconds(ttl),
            type=self._type,
            **self._defaults.with_tags(loading),
        )
        return values

    async def get_or_load_entry(
        self,
        key: str,
        loader: Loader,
        ttl: Ttl = None,
        *,
        trace_id: str | None = None,
        **loading: Unpack[LoadOptions],
    ) -> CacheEntry[T]:
        """Do what `get_or_load` does, and return the value with its status, age and remaining time in milliseconds.

        Raises:
            CacheError: as for `get_or_load`.
        """
        entry: CacheEntry[T] = await self._view.retrieve_or_load_entry(
            trace_id,
            key,
            loader,
            ttl_milliseconds(ttl),
            type=self._type,
            **self._defaults.with_tags(loading),
        )
        return entry

    @overload
    async def refresh(
        self,
        key: str,
        loader: DataLoader,
        ttl: Ttl = None,
        *,
        trace_id: str | None = None,
        **loading: Unpack[LoadOptions],
    ) -> T: ...
    @overload
    async def refresh(
        self,
        key: str,
        loader: ValueLoader[T],
        ttl: Ttl = None,
        *,
        trace_id: str | None = None,
        **loading: Unpack[LoadOptions],
    ) -> T: ...
    @overload
    async def refresh(
        self,
        key: str,
        loader: Loader,
        ttl: Ttl = None,
        *,
        trace_id: str | None = None,
        **loading: Unpack[LoadOptions],
    ) -> T | None: ...
    async def refresh(
        self,
        key: str,
        loader: Loader,
        ttl: Ttl = None,
        *,
        trace_id: str | None = None,
        **loading: Unpack[LoadOptions],
    ) -> Any:
        """Load a value now, even if one is stored or being loaded; store and return it.

        Raises:
            CacheError: as for `get_or_load`.
        """
        return await self._view.refresh(
            trace_id,
            key,
            loader,
            ttl_milliseconds(ttl),
            type=self._type,
            **self._defaults.with_tags(loading),
        )
