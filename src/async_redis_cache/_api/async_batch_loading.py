"""The part of the asynchronous door that loads what is not there of many keys, in one call."""

from __future__ import annotations

from collections.abc import Coroutine, Iterable
from dataclasses import replace
from functools import partial
from typing import Any, TypeVar, Unpack, overload

from async_redis_cache._common.durations import Timeout
from async_redis_cache._common.errors import CacheError
from async_redis_cache._common.outcomes import raise_first
from async_redis_cache._common.pip_services import Context
from async_redis_cache._engine.engine import Engine
from async_redis_cache._engine.load_lease import LoadResult
from async_redis_cache._engine.load_options import LoadOptions
from async_redis_cache._engine.single_flight import SERVER_FAILURES

from .async_loading import AsyncLoading
from .batch_loader import Batch, BatchLoader
from .load_request import (
    LoadRequest,
    Lookup,
    call_of,
    check_keys,
    for_each_key,
    no_loader,
    result_value,
    run_load,
)

__all__ = ["AsyncBatchLoading"]

T = TypeVar("T")
Result = LoadResult | Lookup | None
"""What a value is made of."""


class AsyncBatchLoading(AsyncLoading):
    """A cache that may be asked for many keys, some of which it does not hold yet."""

    @overload
    async def retrieve_or_load_many(
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
    async def retrieve_or_load_many(
        self,
        context: Context,
        keys: Iterable[str],
        loader: BatchLoader,
        timeout: Timeout = None,
        *,
        type: Any = None,
        **loading: Unpack[LoadOptions],
    ) -> dict[str, Any]: ...
    async def retrieve_or_load_many(
        self,
        context: Context,
        keys: Iterable[str],
        loader: BatchLoader,
        timeout: Timeout = None,
        *,
        type: Any = None,
        **loading: Unpack[LoadOptions],
    ) -> dict[str, Any]:
        """The values of those keys that have one, by key, in the order of the keys.

        For those that are not there, and that nobody else is loading, the loader is called once.

        Args:
            context: for the errors.
            keys: as for `store`.
            loader: a function of a list of keys that gives a mapping from keys to values, or
                something to await for it. Of keys that it leaves out there is no value.
            timeout: as for `store`, of the values that are loaded.
            type: as for `retrieve`.
            **loading: see `LoadOptions`.

        Raises:
            CacheError: as for `retrieve_or_load`.
            Exception: what the loader raised, when a value could not be given for it.
        """
        try:
            wanted = list(dict.fromkeys(check_keys(keys)))
            # Without keys too, a call with a wrong option or in a closed cache fails.
            first = self._load_request(
                wanted[0] if wanted else "-", no_loader, timeout, type, loading
            )
            if not wanted:
                return {}
            call = partial(call_of, first.engine.load_engine(), in_thread=first.policy.in_thread)
            batch = Batch(wanted, loader, call)
            policy = replace(first.policy, in_thread=False)
            asked = [
                first._replace(
                    key=key,
                    wire_key=first.codec.wire_key(key),
                    policy=policy,
                    loader=partial(batch.value, key),
                    decided=partial(first.engine.on_loop, batch.decided, key),
                    idle=partial(batch.idle, key),
                )
                for key in wanted
            ]
            results = raise_first(
                await first.engine.gather_outcomes(await self._many(first.engine, asked))
            )
            values = {
                one.key: result_value(one, got) for one, got in zip(asked, results, strict=True)
            }
            return {key: value for key, value in values.items() if value is not None}
        except CacheError as error:
            self._record_error(error, context)
            raise

    async def _found_of(self, read: tuple[LoadRequest, bytes | None]) -> Lookup:
        return await self._lookup(*read)

    async def _many(
        self, engine: Engine, asked: list[LoadRequest]
    ) -> list[Coroutine[Any, Any, Result]]:
        """For each what gives its value; those whose server is left alone are not read."""
        alone = engine.open_circuits_of(one.wire_key for one in asked)
        if not alone:
            return await self._read(engine, asked)
        engine.continue_without_server(engine.circuit_open())
        others = [one for one in asked if one.wire_key not in alone]
        read = iter(await self._read(engine, others)) if others else iter(())
        missed = len(alone)
        self._counters.misses += missed
        return [run_load(one, None, None) if one.wire_key in alone else next(read) for one in asked]

    async def _read(
        self, engine: Engine, asked: list[LoadRequest]
    ) -> list[Coroutine[Any, Any, Result]]:
        """For each what gives its value: a load for those that are not there."""
        try:
            read = await engine.read_many([one.wire_key for one in asked])
            found = await for_each_key(
                engine, self._found_of, list(zip(asked, read, strict=True)), read
            )
        except SERVER_FAILURES as error:
            engine.continue_without_server(error)
            missed = len(asked)
            self._counters.misses += missed
            return [run_load(one, None, None) for one in asked]
        return [
            self._load(one, data, this) if this.status is None else _known(one, this)
            for one, data, this in zip(asked, read, found, strict=True)
        ]


async def _known(asked: LoadRequest, found: Lookup) -> Result:
    """Where nothing is to be loaded."""
    asked.decided()
    return found
