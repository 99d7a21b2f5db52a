"""The methods that return a value as a `CacheEntry`, with its status, age and remaining time."""

from __future__ import annotations

from typing import Any, TypeVar, Unpack, overload

from async_redis_cache._common.durations import Timeout
from async_redis_cache._common.errors import SERVER_FAILURES, CacheError
from async_redis_cache._common.pip_services import Context
from async_redis_cache._engine.load_options import LoadOptions

from .async_loading import AsyncLoading
from .cache_entry import CacheEntry
from .load_request import NO_LOOKUP, LoadRequest, Lookup, lookup, no_loader, with_valid_tags
from .load_results import lookup_entry, result_entry
from .loaders import Loader

__all__ = ["AsyncEntries"]

T = TypeVar("T")


class AsyncEntries(AsyncLoading):
    """Returns values with their status, age and remaining time."""

    @overload
    async def retrieve_or_load_entry(
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
    async def retrieve_or_load_entry(
        self,
        context: Context,
        key: str,
        loader: Loader,
        timeout: Timeout = None,
        *,
        type: Any = None,
        **loading: Unpack[LoadOptions],
    ) -> CacheEntry[Any]: ...
    async def retrieve_or_load_entry(
        self,
        context: Context,
        key: str,
        loader: Loader,
        timeout: Timeout = None,
        *,
        type: Any = None,
        **loading: Unpack[LoadOptions],
    ) -> CacheEntry[Any]:
        """Do what `retrieve_or_load` does, and return the value with its status, age and remaining time.

        Raises:
            CacheError: as for `retrieve_or_load`.
        """
        try:
            request = self._load_request(key, loader, timeout, type, loading)
            try:
                request.engine.check_circuit(request.wire_key)
                data, is_near = await request.engine.reads.fetch_with_source(request.wire_key)
                found = await self._lookup(request, data)
            except SERVER_FAILURES as error:
                read_by = request.engine.loop.time()
                result = await self._without_server(request, error)
            else:
                read_by = request.engine.loop.time()
                result = _with_origin(found, is_near=is_near)
                if found.status is None:
                    result = await self._load(request, data, found)
            # The time limit of a load is not part of that of the commands.
            took = request.engine.loop.time() - read_by
            return await result_entry(request._replace(since=request.since + took), result)
        except CacheError as error:
            self._record_error(error, context)
            raise

    @overload
    async def retrieve_entry(
        self, context: Context, key: str, *, type: type[T]
    ) -> CacheEntry[T]: ...
    @overload
    async def retrieve_entry(
        self, context: Context, key: str, *, type: Any = None
    ) -> CacheEntry[Any]: ...
    async def retrieve_entry(
        self, context: Context, key: str, *, type: Any = None
    ) -> CacheEntry[Any]:
        """Do what `retrieve` does, and return the value with its status, age and remaining time.

        For a value stored by `store` without tags, its TTL has to be read, which costs one more round trip.

        Raises:
            CacheError: as for `retrieve`.
        """
        try:
            opened = self._lifecycle.ready()
            engine, codec = opened.engine, opened.codec
            request = LoadRequest(
                engine,
                codec,
                opened.policies.default,
                codec.decoder(type),
                key,
                codec.wire_key(key),
                no_loader,
                None,
                (),
                engine.loop.time(),
                self._counters,
            )
            data, is_near = await request.engine.reads.fetch_with_source(request.wire_key)
            found = (
                NO_LOOKUP if data is None else await with_valid_tags(request, lookup(request, data))
            )
            if found.status == "hit":
                self._counters.hits += 1
            else:
                self._counters.misses += 1
            if found.status is None:
                return CacheEntry(None, "missing", None, None)
            return await lookup_entry(request, _with_origin(found, is_near=is_near))
        except CacheError as error:
            if not self._fails_open(error, context):
                raise
            return CacheEntry(None, "missing", None, None)


def _with_origin(found: Lookup, *, is_near: bool) -> Lookup:
    """Set the status of a hit in the near cache."""
    return found._replace(status="near") if is_near and found.status == "hit" else found
