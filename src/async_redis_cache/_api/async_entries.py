"""The part of the asynchronous door that tells what is known about a value."""

from __future__ import annotations

import random
from typing import Any, Final, TypeVar, Unpack, overload

from async_redis_cache._common.durations import Timeout
from async_redis_cache._common.errors import CacheError, CacheStateError
from async_redis_cache._common.pip_services import Context
from async_redis_cache._engine.load_lease import Product
from async_redis_cache._engine.load_options import LoadOptions
from async_redis_cache._engine.single_flight import AWAY

from .cache_entry import CacheEntry
from .load_request import (
    NOTHING,
    Asked,
    Found,
    entry_of,
    found_entry,
    judged,
    load,
    look,
    no_loader,
    terms,
    wanted,
)
from .loaders import Loader
from .openable import Openable, verb, verb_or

__all__ = ["ReadEntries"]

T = TypeVar("T")

_SECOND: Final = 1000


def _no_entry() -> CacheEntry[Any]:
    return CacheEntry(None, "missing", None, None)


class ReadEntries(Openable):
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
    @verb
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
        asked = self._asking(key, loader, timeout, type, loading)
        try:
            asked.engine.pass_through(asked.wire_key)
            data, is_near = await asked.engine.read_where(asked.wire_key)
            found = await self._found(asked, data)
        except AWAY as error:
            read_by = asked.engine.loop.time()
            result = await self._without_server(asked, error)
        else:
            read_by = asked.engine.loop.time()
            result = _where(found, is_near=is_near)
            if found.status is None:
                result = await self._through(asked, data, found)
        # A load has a time of its own.
        took = asked.engine.loop.time() - read_by
        return await entry_of(asked._replace(since=asked.since + took), result)

    @overload
    async def retrieve_entry(self, context: Context, key: str) -> CacheEntry[Any]: ...
    @overload
    async def retrieve_entry(
        self, context: Context, key: str, *, type: type[T]
    ) -> CacheEntry[T]: ...
    @overload
    async def retrieve_entry(
        self, context: Context, key: str, *, type: Any = None
    ) -> CacheEntry[Any]: ...
    @verb_or(_no_entry)
    async def retrieve_entry(
        self, context: Context, key: str, *, type: Any = None
    ) -> CacheEntry[Any]:
        """As `retrieve`, with the value's status, age and remaining life.

        Of a value that `store` stored the remaining life is asked for, so that is a round trip more.

        Raises:
            CacheError: as for `retrieve`.
        """
        opened = self._lifecycle.ready()
        engine, codec = opened.engine, opened.codec
        asked = Asked(
            engine,
            codec,
            opened.policies.default,
            codec.decoder(type),
            key,
            codec.key(key),
            no_loader,
            None,
            (),
            engine.loop.time(),
        )
        data, is_near = await asked.engine.read_where(asked.wire_key)
        found = NOTHING if data is None else await judged(asked, look(asked, data))
        if found.status == "hit":
            self._counters.hits += 1
        else:
            self._counters.misses += 1
        if found.status is None:
            return CacheEntry(None, "missing", None, None)
        return await found_entry(asked, _where(found, is_near=is_near))

    def _asking(
        self, key: str, loader: Loader, timeout: Timeout, kind: Any, loading: LoadOptions
    ) -> Asked:
        opened = self._lifecycle.ready()
        engine, codec = opened.engine, opened.codec
        tags = codec.tags(loading.pop("tags", ()))
        policy, decode = terms(opened, kind, timeout, loading)
        wire_key = codec.key(key)
        return Asked(
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

    async def _without_server(self, asked: Asked, error: CacheError) -> Product | Found | None:
        """Load, and store nothing."""
        asked.engine.go_on_after(error)
        self._counters.misses += 1
        return await load(asked, None, None)

    async def _found(self, asked: Asked, data: bytes | None) -> Found:
        """What was read; what is to be loaded anew ahead of time is begun to be."""
        found = NOTHING if data is None else await judged(asked, look(asked, data))
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
            and asked.policy.looks_ahead
            and found.status is not None
            and asked.policy.is_ageing(record, found.now, random.random)
        ):
            asked.engine.load_ahead(asked.wire_key, wanted(asked, data, found))
        return found

    async def _through(
        self, asked: Asked, data: bytes | None, found: Found
    ) -> Product | Found | None:
        """What a load gives; or the stale value, where there is one and that takes too long."""
        if found.value is None or found.record is None:
            return await load(asked, data or b"", found)
        record, now = found.record, found.now
        is_leased = record.leased_until > now
        if asked.policy.soft and (record.is_held or not is_leased):
            patience = asked.policy.soft / _SECOND
            try:
                result = await load(asked, data or b"", found, patience=patience)
            except CacheStateError:
                raise
            except Exception:  # noqa: BLE001  whatever the loader raises, there is a value to give
                result = None
            if result is not None:
                return result
        elif is_leased:
            asked.decided()
        else:
            asked.engine.load_ahead(asked.wire_key, wanted(asked, data, found))
        self._counters.stale_hits += 1
        return found._replace(status="stale")


def _where(found: Found, *, is_near: bool) -> Found:
    """The same, with where it was found."""
    return found._replace(status="near") if is_near and found.status == "hit" else found
