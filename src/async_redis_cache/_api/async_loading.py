"""The part of the asynchronous door that loads what is not there."""

from __future__ import annotations

import random
from typing import Any, Final, TypeVar, Unpack, overload

from async_redis_cache._common.durations import Timeout
from async_redis_cache._common.errors import CacheError
from async_redis_cache._common.pip_services import Context
from async_redis_cache._engine.load_options import LoadOptions
from async_redis_cache._engine.single_flight import SERVER_FAILURES

from .async_entries import AsyncEntries
from .load_request import (
    NO_LOOKUP,
    LoadRequest,
    lookup,
    policy_and_decoder,
    result_value,
    run_load,
    valid_lookup,
)
from .loaders import DataLoader, Loader, ValueLoader

__all__ = ["AsyncLoading"]

_NO_TAGS: Final[tuple[str, ...]] = ()

T = TypeVar("T")


class AsyncLoading(AsyncEntries):
    """A cache that may be asked for what it does not hold yet."""

    @overload
    async def retrieve_or_load(
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
    async def retrieve_or_load(
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
    async def retrieve_or_load(
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
    async def retrieve_or_load(
        self,
        context: Context,
        key: str,
        loader: Loader,
        timeout: Timeout = None,
        *,
        type: Any = None,
        **loading: Unpack[LoadOptions],
    ) -> Any: ...
    async def retrieve_or_load(
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

        One load serves all who ask meanwhile, in this process and in others. Who is cancelled takes
        nobody along; a load is cancelled when its last caller has left. A value that is overtaken,
        by a store or a removal of the key while it was loaded, goes to those who asked for it and
        not into the cache. Each caller gets an object of its own, decoded from what is stored, so a
        first call gives what a later one does. While the server is away, values are loaded and not
        stored. A result that cannot be stored, since it is too large or not serializable, is returned to
        the callers of that load: they share the loader's own object.

        Args:
            context: for the errors.
            key: as for `store`.
            loader: a function, or a coroutine function: anything whose result is the value or can be
                awaited for it. If it has a parameter that must be given, it is given a `Load`. None
                says that there is none.
            timeout: as for `store`, of the value that is loaded.
            type: as for `retrieve`. Without it all callers get what the serializer makes of the
                stored value: from JSON, a dict where the loader gave a dataclass.
            **loading: see `LoadOptions`.

        Raises:
            CacheInputError: as for `store` and `retrieve`; BAD_LOAD_OPTION; BAD_TYPE, too, for a
                loaded value that does not fit the type; NOT_SERIALIZABLE for one that can be used
                only once, as a generator.
            CacheTimeout: LOAD_TIMEOUT, when the load took longer than `hard_timeout`.
            CacheAuthError, CacheUnsupported: the server does not take what this needs.
            CacheLoadError: LOAD_CANCELLED, when the loader was cancelled, or raised CancelledError;
                LOAD_CYCLE, when it asks for the key that it loads, itself or through another load.
            CacheOverloaded: TOO_MANY_THREADS, when `loading.max_threads` threads run loaders.
            BaseException: what the loader raised; each caller that waits gets an exception of its own,
                and it is not remembered.
        """
        try:
            opened = self._lifecycle.ready()
            _, engine, codec, _, _ = opened
            tags = loading.pop("tags", _NO_TAGS) if loading else _NO_TAGS
            if tags is not _NO_TAGS:
                # On a hit too: what is wrong with a call does not depend on what is stored.
                tags = codec.tags(tags)
            policy, decode = policy_and_decoder(opened, type, timeout, loading)
            since = engine.loop.time()
            wire_key = codec.wire_key(key)
            try:
                engine.check_circuit(wire_key)
                data = await engine.read(wire_key)
                if data is not None:
                    payload = policy.payload_at_once(
                        data, engine.freshness.known_now, random.random
                    )
                    value = None if payload is None else codec.loads(wire_key, payload, decode)
                    if value is not None:
                        self._counters.hits += 1
                        return value
                asked = LoadRequest(
                    *(engine, codec, policy, decode, key, wire_key, loader, timeout, tags, since),
                    kind=type,
                )
                found = await self._lookup(asked, data)
            except SERVER_FAILURES as error:
                asked = LoadRequest(
                    *(engine, codec, policy, decode, key, wire_key, loader, timeout, tags, since),
                    kind=type,
                )
                return result_value(asked, await self._without_server(asked, error))
            if found.status is None:
                return result_value(asked, await self._load(asked, data, found))
        except CacheError as error:
            self._record_error(error, context)
            raise
        return found.value

    @overload
    async def refresh(
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
    async def refresh(
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
    async def refresh(
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
    async def refresh(
        self,
        context: Context,
        key: str,
        loader: Loader,
        timeout: Timeout = None,
        *,
        type: Any = None,
        **loading: Unpack[LoadOptions],
    ) -> Any: ...
    async def refresh(
        self,
        context: Context,
        key: str,
        loader: Loader,
        timeout: Timeout = None,
        *,
        type: Any = None,
        **loading: Unpack[LoadOptions],
    ) -> Any:
        """Load a value now, whatever is stored and whoever else loads it; return it.

        Until it is there, others are given what is stored.

        Raises:
            CacheError: as for `retrieve_or_load`.
        """
        try:
            asked = self._load_request(key, loader, timeout, type, loading)
            try:
                asked.engine.check_circuit(asked.wire_key)
                data = await asked.engine.read(asked.wire_key)
                found = (
                    NO_LOOKUP if data is None else await valid_lookup(asked, lookup(asked, data))
                )
            except SERVER_FAILURES as error:
                result = await self._without_server(asked, error)
                # What is stored could be read again once the server answers.
                asked.engine.writes.store_failed(asked.wire_key, error, is_raised=False)
                return result_value(asked, result)
            return result_value(asked, await run_load(asked, data or b"", found, force=True))
        except CacheError as error:
            self._record_error(error, context)
            raise
