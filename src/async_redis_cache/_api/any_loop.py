"""The engine and the lifecycle of an `AsyncRedisCache` whose coroutines can be awaited from any event loop.

The engine runs on a private event loop, as that of `RedisCache` does. Keys, serializers, types and loaders are handled on
the event loop of the caller, with its context. A load runs on the private event loop and calls its loader on that of the
caller that has started it. If that event loop ends, another waiting caller loads.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Iterable
from contextvars import copy_context
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar, cast

import anyio
import anyio.to_thread

from async_redis_cache._common.clock import MonotonicClock
from async_redis_cache._common.errors import CacheError, CacheStateError
from async_redis_cache._common.failures import UNKNOWN
from async_redis_cache._common.outcomes import (
    CallerLeftError,
    CapturedError,
    gather_outcomes,
    load_cancelled,
)
from async_redis_cache._common.pip_services import Context as CallContext
from async_redis_cache._engine.load_source import LoadResult, LoadSource, LoadSpec, StoredValue
from async_redis_cache._engine.reads import IsReadable
from async_redis_cache._runtime.any_loop_call import AnyLoopCall, Bridge
from async_redis_cache._runtime.caller_loop import call_on_caller_loop
from async_redis_cache._runtime.lifecycle import NOT_OPEN, Opened
from async_redis_cache._runtime.loop_mailbox import LoopMailbox, mailbox
from async_redis_cache._runtime.portal import Portal, PortalRefusedError
from async_redis_cache._runtime.private_core import Attempt, PrivateCore

from .engine_calls import CallingEngine, in_task

if TYPE_CHECKING:
    from async_redis_cache._engine.engine import Engine

__all__ = ["AnyLoopLifecycle"]

T = TypeVar("T")


class _AnyLoopCalls:
    """The calls of event loops."""

    def __init__(self, bridge: Bridge) -> None:
        self._bridge = bridge
        self.read = partial(AnyLoopCall, bridge)
        self.post = bridge.portal.post

    def write(
        self,
        unsent: Callable[[CacheError], None] | None,
        function: Callable[..., Awaitable[Any]],
        /,
        *args: Any,
    ) -> AnyLoopCall:
        """See `Calls`."""
        call = AnyLoopCall(self._bridge, function, *args)
        call.timeout_failure, call.unsent = UNKNOWN, unsent
        return call

    def read_since(
        self, since: float, function: Callable[..., Awaitable[Any]], /, *args: Any
    ) -> AnyLoopCall:
        """See `Calls`."""
        call = AnyLoopCall(self._bridge, function, *args)
        call.deadline = since + self._bridge.patience
        return call

    def long_write(
        self, seconds: float, function: Callable[..., Awaitable[Any]], /, *args: Any
    ) -> AnyLoopCall:
        """See `Calls`."""
        call = self.write(None, function, *args)
        call.deadline = MonotonicClock.time() + self._bridge.patience + seconds
        return call

    def in_caller(self, is_readable: IsReadable, /) -> IsReadable:
        """See `Calls`. A check runs on the event loop of the caller."""
        portal, box = self._bridge.portal, mailbox()

        async def checked(key: bytes, payload: bytes) -> bool:
            return await call_on_caller_loop(portal, box, partial(is_readable, key, payload))

        return checked


class _CallerSource:
    """A `LoadSource` whose loader and checks run on the event loop of the caller."""

    def __init__(self, portal: Portal, box: LoopMailbox, source: LoadSource) -> None:
        self._on_caller_loop = partial(call_on_caller_loop, portal, box)
        self._box = box
        self._source = source
        self._is_decided = False
        self.counters = source.counters
        self.may_change_tags = source.may_change_tags
        self.waits_for_others = source.waits_for_others
        self.idle_time = source.idle_time
        self.loader_name = source.loader_name

    async def call_loader(self) -> LoadResult:
        """See `LoadSource`."""
        result: LoadResult = await self._on_caller_loop(self._source.call_loader)
        return result

    async def accepts(self, data: bytes, since: float) -> bool:
        """See `LoadSource`."""
        accepts = partial(self._source.accepts, data, since)
        return bool(await self._on_caller_loop(accepts))

    def on_decided(self) -> None:
        """See `LoadSource`."""
        if not self._is_decided:
            self._is_decided = True
            if self.waits_for_others():
                self._box.put(_Decision(self._source))


class _Decision:
    """That a key is decided, on its way to the event loop of the caller."""

    __slots__ = ("_source",)

    def __init__(self, source: LoadSource) -> None:
        self._source = source

    def arrive(self) -> None:
        """Report it to the source."""
        self._source.on_decided()


class _SingleFlight:
    """The loads of an engine, called on the private event loop."""

    def __init__(self, engine: Engine, bridge: Bridge) -> None:
        self._single_flight = engine.single_flight
        self._bridge = bridge

    async def load(
        self, key: bytes, spec: LoadSpec, patience: float | None = None
    ) -> LoadResult | StoredValue | None:
        """See `SingleFlight`."""
        # In a task, for the load to have the caller's context.
        task = partial(in_task, copy_context())
        call = AnyLoopCall(
            self._bridge, task, self._single_flight.load, key, self._on_caller_loop(spec), patience
        )
        call.deadline = MonotonicClock.time() + self._bridge.patience + spec.hard_timeout
        outcome: LoadResult | StoredValue | CapturedError | None = await call
        if isinstance(outcome, CapturedError):
            # The loader's task was cancelled, and this caller was not.
            is_left = outcome.kind is CallerLeftError
            raise load_cancelled() if is_left else outcome.error()
        return outcome

    def refresh_in_background(self, key: bytes, spec: LoadSpec) -> None:
        """See `SingleFlight`. It ends with the event loop of the caller."""
        refresh = self._single_flight.refresh_in_background
        self._bridge.portal.post(copy_context().run, refresh, key, self._on_caller_loop(spec))

    def _on_caller_loop(self, spec: LoadSpec) -> LoadSpec:
        return spec._replace(source=_CallerSource(self._bridge.portal, mailbox(), spec.source))


class AnyLoopEngine(CallingEngine):
    """The engine for callers on any event loop."""

    def __init__(self, engine: Engine, bridge: Bridge) -> None:
        super().__init__(engine, _AnyLoopCalls(bridge))
        self._bridge = bridge
        self.single_flight = _SingleFlight(engine, bridge)

    def without_near(self) -> AnyLoopEngine:
        """See `Engine`."""
        return AnyLoopEngine(self._engine.without_near(), self._bridge)

    def call_on_loop(self, function: Callable[..., object], *args: Any) -> None:
        """See `Engine`. The loop is the caller's."""
        function(*args)

    def load_engine(self) -> AnyLoopEngine:
        """Return the engine for what a load does on the event loop of its caller."""
        return self

    async def run_in_caller(self, function: Callable[[], T]) -> T:
        """Call a function on the event loop of the caller, which runs this; return its result."""
        return function()

    async def gather_outcomes(self, awaitables: Iterable[Awaitable[T]]) -> list[T | CapturedError]:
        """See `Engine`."""
        return await gather_outcomes(awaitables)


class AnyLoopLifecycle:
    """The lifecycle of a cache that can be used from any event loop. It has the methods of `Lifecycle` for the API.

    Args:
        core: may be shared with other caches.
    """

    def __init__(self, core: PrivateCore) -> None:
        self.core = core
        self._ready: tuple[Portal, Opened] | None = None
        """The portal of the open core, and its parts with an `AnyLoopEngine`."""
        self.settings = core.lifecycle.settings
        self.engine = core.lifecycle.engine
        self.endpoint = core.lifecycle.endpoint
        self.is_open = core.is_open

    def __repr__(self) -> str:
        return repr(self.core.lifecycle)

    @property
    def name(self) -> str:
        """See `Lifecycle`."""
        return self.core.lifecycle.name

    def ready(self) -> Opened:
        """Return the parts of the cache, which has to be open.

        In a forked process, the first call opens the core again, without connecting.

        Raises:
            CacheStateError: NOT_OPENED.
        """
        ready, portal = self._ready, self.core.portal
        if ready is None or ready[0] is not portal:
            ready = self._ready = self._bridged()
        return ready[1]

    def _bridged(self) -> tuple[Portal, Opened]:
        core = self.core
        try:
            portal = core.portal or core.reopened()
        except PortalRefusedError as refusal:
            raise CacheStateError(refusal.code, refusal.problem) from None
        opened = core.lifecycle.opened
        if portal is None or opened is None:
            raise CacheStateError("NOT_OPENED", NOT_OPEN)
        # It has all members of `Engine` that the API uses.
        engine = cast("Engine", AnyLoopEngine(opened.engine, Bridge(portal, core.patience)))
        return portal, opened._replace(engine=engine)

    async def open(self, context: CallContext) -> None:
        """Open the core, if it is not open.

        Raises:
            CacheStateError: NOT_OPENED, if a loader still blocks the private loop of a previous `open`.
        """
        if self.core.portal is None or self.core.portal.is_closed:
            attempt = Attempt()
            await _in_thread(partial(self.core.open, context, None, attempt), attempt.cancel)

    async def close(self) -> None:
        """Close the core, for all caches that share it."""
        self._ready = None
        await _in_thread(self.core.close, lambda: None)


async def _in_thread(function: Callable[[], None], cancel: Callable[[], None]) -> None:
    """Call a blocking function in a worker thread. If this is cancelled, `cancel` makes the function end."""
    running = asyncio.ensure_future(
        anyio.to_thread.run_sync(function, limiter=anyio.CapacityLimiter(1))
    )
    try:
        await asyncio.shield(running)
    except asyncio.CancelledError:
        cancel()
        with contextlib.suppress(Exception, asyncio.CancelledError):
            await running
        raise
    except PortalRefusedError as refusal:
        raise CacheStateError(refusal.code, refusal.problem) from None
