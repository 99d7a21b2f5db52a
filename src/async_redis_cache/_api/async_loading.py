"""The methods that load missing and stale values."""

from __future__ import annotations

import random
from typing import Any, Final, TypeVar, Unpack, overload

from async_redis_cache._common.durations import SECOND, Timeout
from async_redis_cache._common.errors import SERVER_FAILURES, CacheError, CacheStateError
from async_redis_cache._common.pip_services import Context
from async_redis_cache._engine.load_options import LoadOptions, checked_condition
from async_redis_cache._engine.load_source import LoadResult
from async_redis_cache._values.stored_none import STORED_NONE, unwrapped

from .load_request import (
    NO_LOOKUP,
    LoadRequest,
    Lookup,
    load_spec,
    lookup,
    policy_and_decoder,
    run_load,
    valid_lookup,
    with_valid_tags,
)
from .load_results import result_value
from .loaders import DataLoader, Loader, ValueLoader
from .openable import Openable

__all__ = ["AsyncLoading"]

T = TypeVar("T")

_NO_TAGS: Final[tuple[str, ...]] = ()


class AsyncLoading(Openable):
    """Loads missing and stale values, once for all callers."""

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
        """Return the value of a key; if there is none, call the loader, store its result and return that.

        Concurrent callers share one load (single-flight), in this process and in others. A cancelled caller
        does not affect the others; the load is cancelled once it has no caller left. A load that is superseded,
        by a store or a removal of its key, returns its result to its callers but does not store it. Each caller
        gets an object of its own, decoded from the stored bytes, so that a miss returns the same as a hit. While
        the server is unreachable, values are loaded and not stored. A result that cannot be stored, because it
        is too large or not serializable, is returned to the callers of the load, which share the loader's object.

        Args:
            context: as for `store`.
            key: as for `store`.
            loader: a function or a coroutine function that returns the value, or None if there is none. If it
                has a required parameter, it is called with a `Load`.
            timeout: TTL of the loaded value, as for `store`.
            type: as for `retrieve`. Without it all callers get what the serializer returns for the stored
                value: with JSON, a dict if the loader returned a dataclass.
            **loading: see `LoadOptions`.

        Raises:
            CacheInputError: as for `store` and `retrieve`; BAD_LOAD_OPTION; BAD_TYPE also for a loaded value of
                another type; NOT_SERIALIZABLE for a result that can be used only once, such as a generator.
            CacheTimeout: LOAD_TIMEOUT, if the load took longer than `hard_timeout`.
            CacheAuthError, CacheUnsupported: the server refuses a command that this needs.
            CacheLoadError: LOAD_CANCELLED, if the loader was cancelled or raised CancelledError; LOAD_CYCLE, if
                the loader requests the key that it loads, directly or through other loads.
            CacheOverloaded: TOO_MANY_THREADS, if `loading.max_threads` threads are running loaders.
            BaseException: the exception of the loader; each waiting caller gets a copy. It is not cached.
        """
        try:
            _, engine, codec, policies, _ = self._lifecycle.ready()
            tags = loading.pop("tags", _NO_TAGS) if loading else _NO_TAGS
            if tags is not _NO_TAGS:
                # On a hit too: whether a call is valid does not depend on what is stored.
                tags = codec.tags(tags)
            condition = None
            if loading and "condition" in loading:
                condition = checked_condition(loading.pop("condition"))
            policy, decode = policy_and_decoder(codec, policies, type, timeout, loading)
            since = engine.loop.time()
            wire_key = codec.wire_key(key)
            try:
                engine.check_circuit(wire_key)
                data = await engine.reads.fetch(wire_key)
                if data is not None:
                    payload = policy.usable_payload(data, engine.freshness.known_now, random.random)
                    value = None if payload is None else codec.loads(wire_key, payload, decode)
                    if value is not None:
                        self._counters.hits += 1
                        return None if value is STORED_NONE else value
                request = LoadRequest(
                    *(engine, codec, policy, decode, key, wire_key, loader, timeout, tags, since),
                    self._counters,
                    kind=type,
                    condition=condition,
                )
                found = await self._lookup(request, data)
            except SERVER_FAILURES as error:
                request = LoadRequest(
                    *(engine, codec, policy, decode, key, wire_key, loader, timeout, tags, since),
                    self._counters,
                    kind=type,
                    condition=condition,
                )
                return result_value(request, await self._without_server(request, error))
            if found.status is None:
                return result_value(request, await self._load(request, data, found))
        except CacheError as error:
            self._record_error(error, context)
            raise
        return unwrapped(found.value)

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
        """Load a value now, even if one is stored or being loaded; store and return it.

        Until it is loaded, other callers get the stored value.

        Raises:
            CacheError: as for `retrieve_or_load`.
        """
        try:
            request = self._load_request(key, loader, timeout, type, loading)
            try:
                request.engine.check_circuit(request.wire_key)
                data = await request.engine.reads.fetch(request.wire_key)
                found = (
                    NO_LOOKUP
                    if data is None
                    else await valid_lookup(request, lookup(request, data))
                )
            except SERVER_FAILURES as error:
                result = await self._without_server(request, error, force=True)
                # What is stored could be read again once the server answers.
                request.engine.writes.failed((request.wire_key,), error, is_raised=False)
                return result_value(request, result)
            return result_value(request, await run_load(request, data or b"", found, force=True))
        except CacheError as error:
            self._record_error(error, context)
            raise

    def _load_request(
        self, key: str, loader: Loader, timeout: Timeout, kind: Any, loading: LoadOptions
    ) -> LoadRequest:
        opened = self._lifecycle.ready()
        engine, codec = opened.engine, opened.codec
        tags = codec.tags(loading.pop("tags", ()))
        condition = None
        if "condition" in loading:
            condition = checked_condition(loading.pop("condition"))
        policy, decode = policy_and_decoder(codec, opened.policies, kind, timeout, loading)
        wire_key = codec.wire_key(key)
        return LoadRequest(
            engine,
            codec,
            policy,
            decode,
            key,
            wire_key,
            loader,
            timeout,
            tags,
            engine.loop.time(),
            self._counters,
            kind=kind,
            condition=condition,
        )

    async def _without_server(
        self, request: LoadRequest, error: CacheError, *, force: bool = False
    ) -> LoadResult | Lookup | None:
        """Load a value without the server, and store nothing. With `force`, no load in flight is joined."""
        request.engine.continue_without_server(error)
        self._counters.misses += 1
        return await run_load(request, None, None, force=force)

    async def _lookup(self, request: LoadRequest, data: bytes | None) -> Lookup:
        """Look up what was read, and begin a refresh in the background if one is due."""
        found = NO_LOOKUP if data is None else await with_valid_tags(request, lookup(request, data))
        if found.status == "hit":
            self._counters.hits += 1
        elif found.status is None and found.value is not None:
            pass  # Stale: counted once it is returned.
        else:
            self._counters.misses += 1
        record = found.record
        if (
            record is not None
            and data is not None
            and request.policy.may_refresh
            and found.status is not None
            and request.policy.is_due_for_refresh(record, found.now, random.random)
        ):
            request.engine.single_flight.refresh_in_background(
                request.wire_key, load_spec(request, data, found)
            )
        return found

    async def _load(
        self, request: LoadRequest, data: bytes | None, found: Lookup
    ) -> LoadResult | Lookup | None:
        """Load a value; if there is a stale one, return that when the load fails or takes longer than `soft_timeout`."""
        if found.value is None or found.record is None:
            return await run_load(request, data or b"", found)
        record, now = found.record, found.now
        is_leased = record.leased_until > now
        if request.policy.soft_timeout and (record.is_held or not is_leased):
            patience = request.policy.soft_timeout / SECOND
            try:
                result = await run_load(request, data or b"", found, patience=patience)
            except CacheStateError:
                raise
            except Exception:  # noqa: BLE001  whatever the loader raises, the stale value is returned
                result = None
            if result is not None:
                return result
        elif is_leased:
            request.on_decided()
        else:
            request.engine.single_flight.refresh_in_background(
                request.wire_key, load_spec(request, data, found)
            )
        self._counters.stale_hits += 1
        return found._replace(status="stale")
