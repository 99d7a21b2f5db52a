"""A server in this process, without a network, on the clock of the caches' loop.

It is fakeredis, so it runs the library's Lua scripts. An exchange with it takes a turn of the loop and no
time. What it calls the time, and what `time.monotonic` is to the caches, is the time of the loop: on a
`VirtualTimeLoop` all three stand still while anything is to be done, and go on by what the test lets pass.
"""

from __future__ import annotations

import asyncio
from contextlib import ExitStack
from importlib import import_module
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, Final, Self, cast
from unittest.mock import patch

import hiredis
import redis
from fakeredis import FakeRedis, FakeServer

from async_redis_cache._client import node as _node
from async_redis_cache._common.clock import MonotonicClock
from async_redis_cache._common.failures import ServerReply
from async_redis_cache._engine import engine as _engine
from async_redis_cache._runtime import deferred_imports
from harness.apis import configured

for _name in deferred_imports._MODULES:
    # The first cache that is opened would import them on a thread, which a simulated loop does not wait for.
    import_module(_name)

if TYPE_CHECKING:
    from collections.abc import Callable

    from async_redis_cache import AsyncRedisCache
    from async_redis_cache._connection.connection import ReplyHandler
    from harness.virtual_time import VirtualTimeLoop

EPOCH: Final = 1_700_000_000
"""What the server's clock says, in seconds, when that of the loop says 0."""
CHANCE: Final = 0.5137
"""What every number by chance is: so that no two things that take turns ever come at the same time."""


class LocalServer:
    """The server. While it is entered, caches that are opened on this loop use it."""

    def __init__(self, loop: VirtualTimeLoop) -> None:
        self._loop = loop
        self._client: Any = FakeRedis(
            server=FakeServer(server_type="valkey", version=(8, 0)), protocol=2
        )
        self._client.response_callbacks.clear()
        self._patches = ExitStack()

    def __enter__(self) -> Self:
        loop = self._loop
        for target, name, value in (
            (MonotonicClock, "time", loop.time),
            (_engine, "random", SimpleNamespace(random=lambda: CHANCE)),
            (_node, "ConnectionPool", self._pool),
        ):
            self._patches.enter_context(patch.object(target, name, value))
        self._patches.enter_context(patch("time.time", lambda: loop.time() + EPOCH))
        return self

    def __exit__(self, *_: object) -> None:
        self._patches.close()
        self._client.close()

    async def open(self, **options: object) -> AsyncRedisCache:
        """A cache that uses it."""

        async def here(call: Callable[..., Any], *args: Any) -> Any:
            return call(*args)  # No thread: the loop would not wait for it.

        cache = configured("redis://127.0.0.1:1", **options)
        with patch("anyio.to_thread.run_sync", here):
            await cache.open(None)
        return cache

    def answer(self, command: tuple[bytes, ...]) -> Any:
        """Do what it says, and reply as hiredis would give it."""
        try:
            return self._client.execute_command(*command)
        except redis.ResponseError as error:
            return ServerReply(str(error))

    def _pool(self, *_: object, on_available: Callable[[], None], **__: object) -> LocalTransport:
        return LocalTransport(self, on_available)


class LocalTransport:
    """One wire to it, for one cache; as a `Transport`."""

    def __init__(self, server: LocalServer, on_available: Callable[[], None]) -> None:
        self._on_available = on_available
        self._idle: list[LocalWire] = [LocalWire(server, self)]

    def checkout(self) -> LocalWire | None:
        """The wire, where it is idle."""
        return self._idle.pop() if self._idle else None

    def checkin(self, wire: LocalWire) -> None:
        """Take it back unused."""
        self._idle.append(wire)

    def free(self, wire: LocalWire) -> None:
        """Take it back after an exchange."""
        self._idle.append(wire)
        self._on_available()

    def stop(self) -> None:
        """There is nothing to drop."""

    async def stopped(self) -> None:
        """Nor to wait for."""


class LocalWire:
    """Carries an exchange to the server and back; as a `Wire`."""

    received_bytes = 0

    def __init__(self, server: LocalServer, transport: LocalTransport) -> None:
        self._server = server
        self._pool = transport

    def send(self, payload: bytes, expected: int, handler: ReplyHandler, **_: int) -> None:
        """Let the server do it all at once, and answer in the loop's next turn."""
        reader = hiredis.Reader(notEnoughData=None)
        reader.feed(payload)
        replies: list[Any] = []
        while (command := cast("list[bytes] | None", reader.gets())) is not None:
            replies.append(self._server.answer(tuple(command)))
        assert len(replies) == expected
        asyncio.get_running_loop().call_soon(self._arrive, replies, handler)

    def abort(self) -> None:
        """Nothing is under way that could be ended."""

    def _arrive(self, replies: list[Any], handler: ReplyHandler) -> None:
        assert handler.on_replies(replies)
        self._pool.free(self)
