"""Loading of missing and stale values: `retrieve_or_load`, `refresh` and the methods that return a `CacheEntry`."""

from __future__ import annotations

import random
from typing import Any, Final, TypeVar, Unpack, overload

from async_redis_cache._common.durations import Timeout
from async_redis_cache._common.errors import CacheError, CacheStateError
from async_redis_cache._common.pip_services import Context
from async_redis_cache._engine.load_options import LoadOptions
from async_redis_cache._engine.load_source import LoadResult
from async_redis_cache._engine.single_flight import SERVER_FAILURES

from .cache_entry import CacheEntry
from .load_request import (
    NO_LOOKUP,
    LoadRequest,
    Lookup,
    load_spec,
    lookup,
    lookup_entry,
    no_loader,
    policy_and_decoder,
    result_entry,
    result_value,
    run_load,
    valid_lookup,
    with_valid_tags,
)
from .loaders import DataLoader, Loader, ValueLoader
from .openable import Openable

__all__ = ["AsyncLoading"]


T = TypeVar("T")

_NO_TAGS: Final[tuple[str, ...]] = ()
_SECOND: Final = 1000


def _no_entry() -> CacheEntry[Any]:
    return CacheEntry(None, "missing", None, None)


class AsyncLoading(Openable):
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
        """As `retrieve_or_load`, with the value's status, age and remaining life.

        Raises:
            CacheError: as for `retrieve_or_load`.
        """
        try:
            asked = self._load_request(key, loader, timeout, type, loading)
            try:
                asked.engine.check_circuit(asked.wire_key)
                data, is_near = await asked.engine.read_with_source(asked.wire_key)
                found = await self._lookup(asked, data)
            except SERVER_FAILURES as error:
                read_by = asked.engine.loop.time()
                result = await self._without_server(asked, error)
            else:
                read_by = asked.engine.loop.time()
                result = _where(found, is_near=is_near)
                if found.status is None:
                    result = await self._load(asked, data, found)
            # A load has a time of its own.
            took = asked.engine.loop.time() - read_by
            return await result_entry(asked._replace(since=asked.since + took), result)
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
        """As `retrieve`, with the value's status, age and remaining life.

        Of a value that `store` stored the remaining life is asked for, so that is a round trip more.

        Raises:
            CacheError: as for `retrieve`.
        """
        try:
            opened = self._lifecycle.ready()
            engine, codec = opened.engine, opened.codec
            asked = LoadRequest(
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
            )
            data, is_near = await asked.engine.read_with_source(asked.wire_key)
            found = NO_LOOKUP if data is None else await with_valid_tags(asked, lookup(asked, data))
            if found.status == "hit":
                self._counters.hits += 1
            else:
                self._counters.misses += 1
            if found.status is None:
                return CacheEntry(None, "missing", None, None)
            return await lookup_entry(asked, _where(found, is_near=is_near))
        except CacheError as error:
            if not self._fails_open(error, context):
                raise
            return _no_entry()

    def _load_request(
        self, key: str, loader: Loader, timeout: Timeout, kind: Any, loading: LoadOptions
    ) -> LoadRequest:
        opened = self._lifecycle.ready()
        engine, codec = opened.engine, opened.codec
        tags = codec.tags(loading.pop("tags", ()))
        policy, decode = policy_and_decoder(opened, kind, timeout, loading)
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
            kind=kind,
        )

    async def _without_server(
        self, asked: LoadRequest, error: CacheError
    ) -> LoadResult | Lookup | None:
        """Load, and store nothing."""
        asked.engine.continue_without_server(error)
        self._counters.misses += 1
        return await run_load(asked, None, None)

    async def _lookup(self, asked: LoadRequest, data: bytes | None) -> Lookup:
        """What was read; what is to be loaded anew ahead of time is begun to be."""
        found = NO_LOOKUP if data is None else await with_valid_tags(asked, lookup(asked, data))
        if found.status == "hit":
            self._counters.hits += 1
        elif found.status is None and found.value is not None:
            pass  # Stale: what is given is counted when it is.
        else:
            self._counters.misses += 1
        record = found.record
        if (
            record is not None
            and data is not None
            and asked.policy.may_refresh
            and found.status is not None
            and asked.policy.is_due_for_refresh(record, found.now, random.random)
        ):
            asked.engine.refresh_in_background(asked.wire_key, load_spec(asked, data, found))
        return found

    async def _load(
        self, asked: LoadRequest, data: bytes | None, found: Lookup
    ) -> LoadResult | Lookup | None:
        """What a load gives; or the stale value, where there is one and that takes too long."""
        if found.value is None or found.record is None:
            return await run_load(asked, data or b"", found)
        record, now = found.record, found.now
        is_leased = record.leased_until > now
        if asked.policy.soft_timeout and (record.is_held or not is_leased):
            patience = asked.policy.soft_timeout / _SECOND
            try:
                result = await run_load(asked, data or b"", found, patience=patience)
            except CacheStateError:
                raise
            except Exception:  # noqa: BLE001  whatever the loader raises, there is a value to give
                result = None
            if result is not None:
                return result
        elif is_leased:
            asked.decided()
        else:
            asked.engine.refresh_in_background(asked.wire_key, load_spec(asked, data, found))
        self._counters.stale_hits += 1
        return found._replace(status="stale")


def _where(found: Lookup, *, is_near: bool) -> Lookup:
    """The same, with where it was found."""
    return found._replace(status="near") if is_near and found.status == "hit" else found
