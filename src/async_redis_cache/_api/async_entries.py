"""The part of the asynchronous door that tells what is known about a value."""

from __future__ import annotations

import random
from typing import Any, Final, TypeVar, Unpack, overload

from async_redis_cache._common.durations import Timeout
from async_redis_cache._common.errors import CacheError, CacheStateError
from async_redis_cache._common.pip_services import Context
from async_redis_cache._engine.load_lease import LoadResult
from async_redis_cache._engine.load_options import LoadOptions
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
    run_load,
    with_valid_tags,
)
from .loaders import Loader
from .openable import Openable

__all__ = ["AsyncEntries"]

T = TypeVar("T")

_SECOND: Final = 1000


def _no_entry() -> CacheEntry[Any]:
    return CacheEntry(None, "missing", None, None)


class AsyncEntries(Openable):
    """A cache that tells a value's status, age and remaining life."""

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
