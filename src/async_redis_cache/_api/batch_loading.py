"""Batch loading: one call of a loader loads many keys."""

from __future__ import annotations

import asyncio
import contextvars
import math
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Mapping
from contextvars import copy_context
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any, Final, Generic, NamedTuple, TypeVar, Unpack, overload

from async_redis_cache._common.durations import Timeout
from async_redis_cache._common.errors import SERVER_FAILURES, CacheError, CacheInputError
from async_redis_cache._common.key_rules import check_keys
from async_redis_cache._common.outcomes import CapturedError, outcome_of, raise_first
from async_redis_cache._common.pip_services import Context
from async_redis_cache._common.tasks import OwnedTasks, may_stay_pending
from async_redis_cache._engine.in_flight_load import LoadNode, current_load, loading_as
from async_redis_cache._engine.load_options import LoadOptions
from async_redis_cache._engine.load_source import LoadResult
from async_redis_cache._values.stored_none import unwrapped

from .async_entries import AsyncEntries
from .load_request import (
    LoadRequest,
    Lookup,
    call_of,
    for_each_key,
    no_loader,
    run_load,
)
from .load_results import result_or_none
from .loaders import ABSENT, Load, NamedLoader, name_of, run, threads_of

if TYPE_CHECKING:
    from async_redis_cache._engine.engine import Engine

__all__ = ["AsyncBatchLoading", "Batch", "BatchLoader", "CoalescingLoader"]


T = TypeVar("T")

BatchLoader = Callable[[list[str]], Awaitable[Mapping[str, Any]] | Mapping[str, Any]]
"""A function of a list of keys that returns a mapping of keys to values, or an awaitable of one. A key that is not
in the mapping has no value."""

_END_OF_TURN: Final = ""
"""Stands for the end of the event loop's iteration among the undecided keys of a batch; no key is empty."""


class Batch(NamedLoader):
    """Calls a loader once for those keys of a call that have to be loaded here.

    The loader is called when each key is decided: to be loaded here, found, or being loaded elsewhere. The batch does
    not wait for keys that another process loads. If that process dies, the loader is called again for them.

    Args:
        keys: the undecided keys.
        loader: the loader of many keys.
        call: calls the loader, in the thread that the load policy says.
        context: the loader runs in a copy of it; by default in one of the context that creates the batch.
        absent: the value of a key that is not in the mapping.
    """

    def __init__(
        self,
        keys: Iterable[str],
        loader: BatchLoader,
        call: Callable[[Callable[[], Any]], Awaitable[Any]],
        *,
        context: contextvars.Context | None = None,
        absent: Any = None,
    ) -> None:
        self._undecided = set(keys)
        self._loader = loader
        self._call = call
        self._absent = absent
        # Kept, since the last key may be decided in the context of another call.
        self._context = copy_context() if context is None else context
        self._waiters: dict[str, asyncio.Future[Any]] = {}
        self._idle: dict[str, float] = {}
        """By key, seconds from its `load` to the call of the loader; until then, the negative time of `load`."""
        self._waiting: dict[asyncio.Future[Any], LoadNode | None] = {}
        self._node = LoadNode(None, self._waiting)
        self._tasks = OwnedTasks()

    @property
    def function_name(self) -> str:
        """The name of the loader of many keys, as `module.qualified_name`."""
        return name_of(self._loader)

    def decide(self, key: str) -> None:
        """Note that a key is decided; call the loader if it was the last."""
        self._undecided.discard(key)
        if self._waiters and not self._undecided:
            waiters, self._waiters = self._waiters, {}
            if all(future.done() for future in waiters.values()):
                # Each waiter was cancelled.
                return
            now = asyncio.get_running_loop().time()
            for waiting_key in waiters:
                self._idle[waiting_key] += now
            task = self._tasks.spawn(self._load(list(waiters)), self._context.copy())

            def distribute(task: asyncio.Task[Mapping[str, Any] | CapturedError]) -> None:
                values = outcome_of(task)
                for waiting_key, future in waiters.items():
                    if not future.done():
                        future.set_result(_looked_up(values, waiting_key, self._absent))

            task.add_done_callback(distribute)
            unfinished = set(waiters)

            def finish(key: str, _: asyncio.Future[Any]) -> None:
                unfinished.discard(key)
                if not unfinished:
                    # Each waiter has its value or was cancelled. Nothing ends the task if its event loop is closed now.
                    may_stay_pending(task)
                    task.cancel()

            for waiting_key, future in waiters.items():
                future.add_done_callback(partial(finish, waiting_key))

    def idle_time(self, key: str) -> float:
        """Seconds for which a loaded key waited for the others to be decided."""
        return self._idle[key]

    async def value(self, key: str) -> Any:
        """Load a key with the others of the batch and return its value.

        Raises:
            BaseException: the exception of the loader.
        """
        loop = asyncio.get_running_loop()
        future = self._waiters[key] = loop.create_future()
        self._idle[key] = -loop.time()
        self._waiting[future] = current_load()
        try:
            self.decide(key)
            value = await future
        except GeneratorExit:
            if loop.is_closed():
                # Closed by `abandon`: so is what this waits for.
                self._tasks.abandon()
            raise
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
            returned = type(values).__name__
            problem = f"the loader `{self.function_name}` returned `{returned}`, expected a mapping"
            raise CacheInputError("NOT_SERIALIZABLE", problem)  # noqa: TRY301
        except BaseException as error:  # noqa: BLE001  passed to the waiters as data, see `CapturedError`
            return CapturedError(error)


def _looked_up(values: Mapping[str, Any] | CapturedError, key: str, absent: Any) -> Any:
    """The value of a key, `absent` if it is not in the mapping, or the exception of a mapping whose `get` raises one."""
    if isinstance(values, CapturedError):
        return values
    try:
        return values.get(key, absent)
    except BaseException as error:  # noqa: BLE001  passed to the waiters as data, see `CapturedError`
        return CapturedError(error)


class _Collecting(NamedTuple):
    """A batch that accepts keys until the current iteration of its event loop ends."""

    loop: asyncio.AbstractEventLoop
    batch: Batch
    keys: set[str]


class CoalescingLoader(NamedLoader, Generic[T]):
    """A loader of one key that calls a loader of many keys, once for all keys missed at the same time.

    Pass it to the calls that load one key. One call of the loader loads all the keys that they miss in the same
    iteration of the event loop; keys that were read in one pipeline are missed in one iteration.

    Args:
        loader: a function of a list of keys that returns a mapping of keys to values, or an awaitable of one. A
            key that is not in the mapping has no value.
        max_keys: the most keys per call of the loader; None for no bound.
        in_thread: call a plain loader in a worker thread.

    The loader runs in a copy of the context (`contextvars`) in which the `CoalescingLoader` was created, not in
    that of a caller, since it loads for several. Anything about a caller that it needs has to be part of the key.

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
        """The batch of the event loop that has used this loader last."""

    def __repr__(self) -> str:
        return f"<CoalescingLoader of {self._loader!r}>"

    @property
    def function_name(self) -> str:
        """The name of the loader of many keys, as `module.qualified_name`."""
        return name_of(self._loader)

    async def __call__(self, load: Load[T]) -> T | None:
        """Load the key of this load; return its value, or None if there is none.

        Raises:
            Exception: the exception of the loader, for each key that it was called for.
        """
        loop = asyncio.get_running_loop()
        # Read once and replaced as a whole: caches on several event loops may share this loader.
        collecting = self._collecting
        if (
            collecting is None
            or collecting.loop is not loop
            or len(collecting.keys) >= self._max_keys
            # A key that is refreshed while it is being loaded needs a second value: it goes into another batch.
            or load.key in collecting.keys
        ):
            threads = threads_of(load) if self._in_thread else None
            call = partial(run, threads=threads)
            batch = Batch((_END_OF_TURN,), self._loader, call, context=self._context)
            self._collecting = collecting = _Collecting(loop, batch, set())
            loop.call_soon(self._close_batch, collecting, context=contextvars.Context())
        collecting.keys.add(load.key)
        value: T | None = await collecting.batch.value(load.key)
        return value

    def _close_batch(self, collecting: _Collecting) -> None:
        if self._collecting is collecting:
            self._collecting = None
        collecting.batch.decide(_END_OF_TURN)


Result = LoadResult | Lookup | None
"""What was loaded, or found on the server."""


class AsyncBatchLoading(AsyncEntries):
    """Reads many keys in one call, and loads those that are missing."""

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
        """Return the values of many keys as a dict in the order of the keys, and load those that are missing.

        The loader is called once, with the missing keys that are not being loaded already. A key without a value
        is not in the result.

        Args:
            context: as for `store`.
            keys: as for `store`.
            loader: a function of a list of keys that returns a mapping of keys to values, or an awaitable of
                one. A key that is not in the mapping has no value.
            timeout: TTL of the loaded values, as for `store`.
            type: as for `retrieve`.
            **loading: see `LoadOptions`.

        Raises:
            CacheError: as for `retrieve_or_load`.
            Exception: the exception of the loader, if a key has no value because of it.
        """
        try:
            unique = list(dict.fromkeys(check_keys(keys)))
            # A wrong option and a closed cache are errors even if there are no keys.
            first = self._load_request(
                unique[0] if unique else "-", no_loader, timeout, type, loading
            )
            if not unique:
                return {}
            call = partial(call_of, first.engine.load_engine(), in_thread=first.policy.in_thread)
            batch = Batch(unique, loader, call, absent=ABSENT)
            policy = replace(first.policy, in_thread=False)
            requests = [
                first._replace(
                    key=key,
                    wire_key=first.codec.wire_key(key),
                    policy=policy,
                    loader=partial(batch.value, key),
                    on_decided=partial(first.engine.call_on_loop, batch.decide, key),
                    idle_time=partial(batch.idle_time, key),
                )
                for key in unique
            ]
            results = raise_first(
                await first.engine.gather_outcomes(await self._values_of(first.engine, requests))
            )
            values = {
                request.key: result_or_none(request, result)
                for request, result in zip(requests, results, strict=True)
            }
            return {key: unwrapped(value) for key, value in values.items() if value is not None}
        except CacheError as error:
            self._record_error(error, context)
            raise

    async def _lookup_read(self, read: tuple[LoadRequest, bytes | None]) -> Lookup:
        return await self._lookup(*read)

    async def _values_of(
        self, engine: Engine, requests: list[LoadRequest]
    ) -> list[Coroutine[Any, Any, Result]]:
        """A coroutine for each value. Keys of servers whose circuit is open are loaded without being read."""
        unreachable = engine.open_circuits_of(request.wire_key for request in requests)
        if not unreachable:
            return await self._read(engine, requests)
        engine.continue_without_server(engine.circuit_open())
        others = [request for request in requests if request.wire_key not in unreachable]
        read = iter(await self._read(engine, others)) if others else iter(())
        missed = len(unreachable)
        self._counters.misses += missed
        return [
            run_load(request, None, None) if request.wire_key in unreachable else next(read)
            for request in requests
        ]

    async def _read(
        self, engine: Engine, requests: list[LoadRequest]
    ) -> list[Coroutine[Any, Any, Result]]:
        """A coroutine for each value: a load for those that are missing."""
        try:
            read = await engine.reads.fetch_many([request.wire_key for request in requests])
            lookups = await for_each_key(
                engine, self._lookup_read, list(zip(requests, read, strict=True)), read
            )
        except SERVER_FAILURES as error:
            engine.continue_without_server(error)
            missed = len(requests)
            self._counters.misses += missed
            return [run_load(request, None, None) for request in requests]
        return [
            self._load(request, data, found) if found.status is None else _found(request, found)
            for request, data, found in zip(requests, read, lookups, strict=True)
        ]


async def _found(request: LoadRequest, found: Lookup) -> Result:
    """Return what was found; its key is decided."""
    request.on_decided()
    return found
