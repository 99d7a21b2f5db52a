"""Batch loading: many keys loaded by one call of a loader."""

from __future__ import annotations

import asyncio
import contextvars
import math
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Mapping
from contextvars import copy_context
from dataclasses import replace
from functools import partial
from typing import Any, Final, Generic, NamedTuple, TypeVar, Unpack, overload

from async_redis_cache._common.durations import Timeout
from async_redis_cache._common.errors import CacheError, CacheInputError
from async_redis_cache._common.outcomes import CapturedError, outcome_of, raise_first
from async_redis_cache._common.pip_services import Context
from async_redis_cache._common.tasks import OwnedTasks
from async_redis_cache._engine.engine import Engine
from async_redis_cache._engine.load_cycles import LoadNode, current_load, loading_as
from async_redis_cache._engine.load_options import LoadOptions
from async_redis_cache._engine.load_source import LoadResult
from async_redis_cache._engine.single_flight import SERVER_FAILURES

from .async_loading import AsyncLoading
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
from .loaders import Load, LoaderWrapper, run, threads_of

__all__ = ["AsyncBatchLoading", "Batch", "BatchLoader", "CoalescingLoader"]


T = TypeVar("T")

BatchLoader = Callable[[list[str]], Awaitable[Mapping[str, Any]] | Mapping[str, Any]]
"""A function of a list of keys that gives a mapping from keys to values, or something to await for it.
Of keys that it leaves out there is no value."""


_THE_TURN: Final = ""
"""Stands for the end of the loop's turn, among the keys that are waited for: no key is empty."""


class Batch(LoaderWrapper):
    """The keys of one call, until it is known of each whether it has to be loaded here.

    Then the loader is called once for those that have. A key that another process loads is not
    waited for; should that one die, the loader is called again for it.

    Args:
        keys: of which that is not known yet.
        loader: see `BatchLoader`.
        call: calls the loader: in which thread.
        context: a copy of it is the loader's; by default that of the call that makes the batch.
    """

    def __init__(
        self,
        keys: Iterable[str],
        loader: BatchLoader,
        call: Callable[[Callable[[], Any]], Awaitable[Any]],
        *,
        context: contextvars.Context | None = None,
    ) -> None:
        self._undecided = set(keys)
        self._loader = loader
        self._call = call
        # The last key may be decided by the load of another call.
        self._context = context or copy_context()
        self._wanted: dict[str, asyncio.Future[Any]] = {}
        self._idle: dict[str, float] = {}
        """By key, seconds until the loader was called; before that, less the time at which it was wanted."""
        self._waiting: dict[asyncio.Future[Any], LoadNode | None] = {}
        self._node = LoadNode(None, self._waiting)
        self._tasks = OwnedTasks()

    def decided(self, key: str) -> None:
        """It is known of this key; if it was the last, the loader is called."""
        self._undecided.discard(key)
        if self._wanted and not self._undecided:
            wanted, self._wanted = self._wanted, {}
            now = asyncio.get_running_loop().time()
            for one in wanted:
                self._idle[one] += now
            task = self._tasks.spawn(self._load(list(wanted)), self._context.copy())

            def deal(task: asyncio.Task[Mapping[str, Any] | CapturedError]) -> None:
                values = outcome_of(task)
                for one, future in wanted.items():
                    if not future.done():
                        future.set_result(_looked_up(values, one))

            task.add_done_callback(deal)
            left = set(wanted)

            def leave(key: str, _: asyncio.Future[Any]) -> None:
                left.discard(key)
                if not left:
                    # All have what they wanted, or nobody wants it any more.
                    task.cancel()

            for one, future in wanted.items():
                future.add_done_callback(partial(leave, one))

    def idle(self, key: str) -> float:
        """Seconds for which a key that has been loaded had to wait until it was known of the others."""
        return self._idle[key]

    async def value(self, key: str) -> Any:
        """The value of a key that has to be loaded here."""
        loop = asyncio.get_running_loop()
        future = self._wanted[key] = loop.create_future()
        self._idle[key] = -loop.time()
        self._waiting[future] = current_load()
        try:
            self.decided(key)
            value = await future
        finally:
            del self._waiting[future]
        if isinstance(value, CapturedError):
            raise value.error()
        return value

    async def _load(self, keys: list[str]) -> Mapping[str, Any] | CapturedError:
        loading_as(self._node)
        try:
            values = await self._call(partial(self._loader, keys))
            if isinstance(values, Mapping):
                return values  # pyright: ignore[reportUnknownVariableType]
            problem = "a loader of many keys gives a mapping of keys to values"
            raise CacheInputError("NOT_SERIALIZABLE", problem)  # noqa: TRY301
        except BaseException as error:  # noqa: BLE001  see `_raised`
            return CapturedError(error)


def _looked_up(values: Mapping[str, Any] | CapturedError, key: str) -> Any:
    """The value of a key, or what was raised instead: a mapping may be anything that looks like one."""
    if isinstance(values, CapturedError):
        return values
    try:
        return values.get(key)
    except BaseException as error:  # noqa: BLE001  see `_raised`
        return CapturedError(error)


class _Collecting(NamedTuple):
    """A batch that takes keys until its loop's turn ends."""

    loop: asyncio.AbstractEventLoop
    batch: Batch
    keys: set[str]


class CoalescingLoader(LoaderWrapper, Generic[T]):
    """A loader of one key that calls a loader of many: once for all that are missed at a time.

    Give it to the calls that load one key. What they miss in the same turn of the event loop, as
    callers do whose questions have travelled together, is loaded by one call.

    Args:
        loader: a function of a list of keys that gives a mapping from keys to values, or something
            to await for it. Of keys that it leaves out there is no value.
        max_keys: most keys of one call; None for no bound.
        in_thread: call a plain loader in a worker thread.

    The loader runs in a copy of the context (`contextvars`) in which the `CoalescingLoader` was made, and
    never in that of a call: it loads for several. What it has to know of a caller belongs into the key.

    Example:
        ```python
        prices = CoalescingLoader(load_prices)
        price = await cache.retrieve_or_load(None, "kettle", prices)
        ```
    """

    def __init__(
        self,
        loader: Callable[[list[str]], Awaitable[Mapping[str, T]] | Mapping[str, T]],
        *,
        max_keys: int | None = None,
        in_thread: bool = False,
    ) -> None:
        self._loader = loader
        self._max_keys = math.inf if max_keys is None else max_keys
        self._in_thread = in_thread
        self._context = copy_context()
        self._collecting: _Collecting | None = None
        """Of the loop that has used this last."""

    def __repr__(self) -> str:
        return f"<CoalescingLoader of {self._loader!r}>"

    async def __call__(self, load: Load[T]) -> T | None:
        """The value of the key of this load; None where there is none.

        Raises:
            Exception: what the loader raised, for each key that it was asked for.
        """
        loop = asyncio.get_running_loop()
        # Read once, and set as one: caches with loops of their own may share this.
        collecting = self._collecting
        if (
            collecting is None
            or collecting.loop is not loop
            or len(collecting.keys) >= self._max_keys
            # A key is there twice when it is refreshed while it is loaded: each wants a value of its own.
            or load.key in collecting.keys
        ):
            threads = threads_of(load) if self._in_thread else None
            call = partial(run, threads=threads)
            batch = Batch((_THE_TURN,), self._loader, call, context=self._context)
            self._collecting = collecting = _Collecting(loop, batch, set())
            loop.call_soon(self._leave, collecting, context=contextvars.Context())
        collecting.keys.add(load.key)
        value: T | None = await collecting.batch.value(load.key)
        return value

    def _leave(self, collecting: _Collecting) -> None:
        if self._collecting is collecting:
            self._collecting = None
        collecting.batch.decided(_THE_TURN)


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
