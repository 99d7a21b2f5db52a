"""Opening and closing a cache, on one event loop of one process at a time."""

from __future__ import annotations

import asyncio
import contextvars
import os
import threading
import weakref
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from functools import partial
from typing import TYPE_CHECKING, Final, NamedTuple

import anyio
import anyio.to_thread

from async_redis_cache._common.clock import MonotonicClock
from async_redis_cache._common.endpoint import Endpoint
from async_redis_cache._common.errors import (
    UNANSWERED,
    CacheServerError,
    CacheStateError,
)
from async_redis_cache._common.forks import after_fork_in_child
from async_redis_cache._common.health_log import HealthLog
from async_redis_cache._common.log_events import UNREADABLE
from async_redis_cache._common.options import Options
from async_redis_cache._common.pip_services import Context
from async_redis_cache._common.stats import CacheStats
from async_redis_cache._engine.load_options import LoadPolicies
from async_redis_cache._values.codec import Codec
from async_redis_cache._values.serializers import Serializer

from .container import Settings
from .deferred_imports import import_deferred
from .gevent_patches import refuse_partial_patches
from .monitors import Monitors
from .private_server import PrivateServer, start_in_thread, stop_in_thread

if TYPE_CHECKING:
    from async_redis_cache._engine.engine import Engine

__all__ = ["NOT_OPEN", "Lifecycle", "Opened"]


def _engine_class() -> type[Engine]:
    """Import the engine, and so redis-py, which takes longer to import than the rest of this package."""
    from async_redis_cache._engine.engine import Engine  # noqa: PLC0415  `open` imports it on a thread

    return Engine


class Opened(NamedTuple):
    """The parts of an open cache."""

    endpoint: Endpoint
    engine: Engine
    codec: Codec
    policies: LoadPolicies
    server: PrivateServer | None
    """Started for this cache, and stopped with it."""


class Lifecycle:
    """Opens and closes a cache, and knows on which event loop it is open. Only one task does either at a time."""

    def __init__(self, serializer: Serializer | None, counters: CacheStats) -> None:
        self.settings = Settings(has_serializer=serializer is not None)
        self._serializer = serializer
        self._counters = counters
        self._opened: Opened | None = None
        self._monitors: Monitors | None = None
        self._claim = threading.Lock()
        self._claimants = 0
        self._gate_owner: tuple[int, asyncio.AbstractEventLoop | None] = (0, None)
        """The process and the event loop that the gate belongs to."""
        self._gate: asyncio.Lock
        _LIFECYCLES.add(self)

    def __repr__(self) -> str:
        state = "closed" if self._opened is None else repr(self._opened.engine)
        return f"{self.name!r} {state}" if self.name else state

    @property
    def name(self) -> str:
        """The name of the cache: `options.name`, or else its key prefix."""
        return self.settings.options.name or self.settings.options.key_prefix

    def is_open(self) -> bool:
        """Return whether the cache was opened and not closed since, on an event loop that exists in this process."""
        opened = self._opened
        return (
            opened is not None
            and not opened.engine.loop.is_closed()
            and opened.engine.pid == os.getpid()
        )

    def ready(self) -> Opened:
        """Return the parts of the cache, which has to be open on the running event loop.

        Raises:
            CacheStateError: NOT_OPENED, WRONG_LOOP.
        """
        opened = self._opened
        if opened is None:
            raise CacheStateError("NOT_OPENED", NOT_OPEN)
        if opened.engine.loop is not asyncio.get_running_loop():
            raise CacheStateError("WRONG_LOOP", _WRONG_LOOP)
        return opened

    @property
    def opened(self) -> Opened | None:
        """The parts of the cache, wherever it is open."""
        return self._opened

    def engine(self) -> Engine | None:
        """Return the engine if the cache is open."""
        return None if self._opened is None else self._opened.engine

    def endpoint(self) -> Endpoint | None:
        """Return the endpoint if the cache is open."""
        return None if self._opened is None else self._opened.endpoint

    async def open(self, context: Context) -> None:
        """Open the cache if it is closed, or if its event loop or process no longer exists."""
        async with self._exclusively():
            await self._abandon_foreign()
            if self._opened is None:
                self._opened = await self._open(context)
            else:
                Lifecycle.ready(self)

    async def reopen(self) -> None:
        """Open a cache again that was open before a fork, without connecting.

        The first call connects, within its own deadline.
        """
        parent = self._opened
        await self._abandon_foreign()
        if parent is not None and self._opened is None:
            options = self.settings.options
            endpoint = parent.endpoint.after_fork()
            health_log = self._new_health_log(endpoint)
            engine = contextvars.Context().run(
                _engine_class(), endpoint, options, self._counters, health_log, parent.engine.clock
            )
            codec = self._codec(options, health_log)
            self._opened = Opened(endpoint, engine, codec, LoadPolicies(options), None)
            self._begin(health_log)

    async def close(self) -> None:
        """Close the cache if it is open."""
        async with self._exclusively():
            await self._abandon_foreign()
            if self._opened is not None:
                opened = Lifecycle.ready(self)
                self._opened = None
                try:
                    await opened.engine.close()
                finally:
                    await self._stop_monitors()
                    await stop_in_thread(opened.server)

    async def _open(self, context: Context) -> Opened:
        refuse_partial_patches(context)
        await import_deferred()
        options = self.settings.options
        endpoint = await anyio.to_thread.run_sync(self.settings.resolve, context)
        server: PrivateServer | None = None
        clock = MonotonicClock.time
        engine: Engine | None = None
        try:
            if endpoint.kind in {"embedded", "fake"}:
                server = await start_in_thread(endpoint.kind)
                endpoint, clock = server.endpoint, server.clock
            health_log = self._new_health_log(endpoint)
            engine = contextvars.Context().run(
                _engine_class(), endpoint, options, self._counters, health_log, clock
            )
            try:
                # In an empty context, since a connection's callbacks hold the context that they were created in:
                # the caller's would keep its request alive.
                await asyncio.get_running_loop().create_task(
                    engine.connect(), context=contextvars.Context()
                )
            except (*UNANSWERED, CacheServerError):
                if options.require_connection:
                    raise
        except BaseException:
            if engine is not None:
                await engine.close()
            await stop_in_thread(server)
            raise
        codec = self._codec(options, health_log)
        self._begin(health_log)
        return Opened(endpoint, engine, codec, LoadPolicies(options), server)

    def _codec(self, options: Options, health_log: HealthLog) -> Codec:
        unreadable = partial(health_log.once, UNREADABLE, "")
        return Codec(options, self._serializer, self._counters, unreadable)

    def _new_health_log(self, endpoint: Endpoint) -> HealthLog:
        self._monitors = Monitors(self.settings, self._counters)
        return HealthLog(endpoint.name, self._monitors.add, cache=self._name_at(endpoint))

    def _name_at(self, endpoint: Endpoint) -> str:
        """The name of the cache in log records, which distinguishes the caches on one server."""
        options = self.settings.options
        if options.name:
            return options.name
        name = options.key_prefix or endpoint.name
        return f"{name} in database {endpoint.database}" if endpoint.database else name

    def _begin(self, health_log: HealthLog) -> None:
        health_log.begin()
        if self._monitors is not None:
            self._monitors.start()

    async def _stop_monitors(self) -> None:
        monitors, self._monitors = self._monitors, None
        if monitors is not None:
            await monitors.stop()

    @asynccontextmanager
    async def _exclusively(self) -> AsyncGenerator[None]:
        """Let one task at a time open or close, and on one event loop of one process only."""
        loop = asyncio.get_running_loop()
        with self._claim:
            owner = (os.getpid(), loop)
            if self._gate_owner != owner:
                pid, other = self._gate_owner
                if self._claimants and pid == owner[0] and other and not other.is_closed():
                    problem = "another event loop is opening or closing the cache"
                    raise CacheStateError("WRONG_LOOP", problem)
                self._gate_owner, self._gate, self._claimants = owner, asyncio.Lock(), 0
            self._claimants += 1
            gate = self._gate
        try:
            async with gate:
                yield
        finally:
            with self._claim:
                if self._gate is gate:
                    self._claimants -= 1

    def _after_fork(self) -> None:
        """In a forked child, keep what the parent had open from being collected, and replace the lock.

        Closing it would unregister the parent's sockets from the poll that both processes share. The lock may be
        held by a thread that does not exist in the child.
        """
        _INHERITED.append((self._opened, self._monitors))
        self._counters.loader_threads = 0
        self._claim = threading.Lock()

    async def _abandon_foreign(self) -> None:
        """Forget what belongs to another process or to a closed event loop."""
        opened = self._opened
        if opened is None:
            return
        if opened.engine.pid != os.getpid():
            self._opened = None
        elif opened.engine.loop.is_closed():
            self._opened = None
            opened.engine.abandon()
            await stop_in_thread(opened.server)


NOT_OPEN: Final = "the cache is not open: `await cache.open(...)` or use `async with`"
_WRONG_LOOP: Final = (
    "the cache was opened on another event loop, or before a fork: open it on the loop that uses it, "
    "or create it with any_loop=True"
)
_LIFECYCLES: Final[weakref.WeakSet[Lifecycle]] = weakref.WeakSet()
_INHERITED: Final[list[object]] = []


def _after_fork() -> None:
    for lifecycle in _LIFECYCLES:
        lifecycle._after_fork()  # noqa: SLF001  # pyright: ignore[reportPrivateUsage]


after_fork_in_child(_after_fork)
