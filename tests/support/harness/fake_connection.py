"""A connection pool without a network: the test inspects what is sent and supplies the replies."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Collection
from typing import Any, cast

import hiredis

from async_redis_cache._client.batcher import Batcher, Router
from async_redis_cache._client.demotion import Demotion
from async_redis_cache._client.request import RequestQueue
from async_redis_cache._common.backoff import RetryBackoff
from async_redis_cache._common.failures import LOST, UNEXPECTED_REPLY, Failure, ServerReply
from async_redis_cache._common.stats import CacheStats
from async_redis_cache._connection.connection import ReplyHandler

HALF = 0.5


class FakeWire:
    """A connection on which nothing happens by itself."""

    def __init__(self, transport: FakeTransport) -> None:
        self.commands: list[tuple[bytes, ...]] = []
        """Those under way, as words."""
        self.received_bytes = 0
        self.retires_at = math.inf
        self._pool = transport
        self._handler: ReplyHandler | None = None

    @property
    def is_busy(self) -> bool:
        """Whether an exchange is under way, as of a `RedisConnection`."""
        return self._handler is not None

    def drop(self) -> None:
        """End it as if the server had, as a `RedisConnection` does."""
        if self.is_busy:
            self.lose()
        else:
            self._pool.lose(self)

    def send(self, payload: bytes, expected: int, handler: ReplyHandler, **_: int) -> None:
        """Take commands, as a `Wire` does."""
        assert self._handler is None, "one exchange at a time"
        assert self in self._pool.wires, "a wire that is gone"
        reader = hiredis.Reader(notEnoughData=None)
        reader.feed(payload)
        while (command := reader.gets()) is not None:
            self.commands.append(tuple(command))
        assert len(self.commands) == expected
        self._handler = handler
        self._pool.exchanges.append(self)

    def abort(self) -> None:
        """End it, as a `Wire` does: nobody is told of what was under way."""
        self._handler = None
        if self in self._pool.wires:
            self._pool.aborted += 1
            self._pool.lose(self)

    def answer(self, *replies: Any, received: int = 10) -> None:
        """Give the replies to the exchange under way; text is an error of the server."""
        self.received_bytes = received
        handler = self._end()
        read = [ServerReply(reply) if isinstance(reply, str) else reply for reply in replies]
        if handler.on_replies(read):
            self._pool.free(self)
        else:
            self._pool.lose(self)
            handler.on_connection_lost(UNEXPECTED_REPLY)

    def lose(self) -> None:
        """Let the connection end instead."""
        handler = self._end()
        self._pool.lose(self)
        handler.on_connection_lost(LOST)

    def _end(self) -> ReplyHandler:
        handler, self._handler = self._handler, None
        assert handler is not None, "nothing is under way"
        self.commands = []
        self._pool.exchanges.remove(self)
        return handler


class FakeTransport:
    """So many wires, as long as the test lets them be had."""

    def __init__(self, wires: int) -> None:
        self.reachable = True
        self.asked_at: list[float] = []
        """When a wire was wanted and there was none."""
        self.aborted = 0
        self.checks = 0
        self.exchanges: list[FakeWire] = []
        """Wires with an exchange under way, in the order in which they were sent."""
        self.batcher: Batcher
        self.wires: set[FakeWire] = set()
        self._most = wires
        self._idle: list[FakeWire] = []

    def checkout(self) -> FakeWire | None:
        """An idle wire, or None; as a `Transport` does."""
        while self._idle:
            wire = self._idle.pop()
            if wire.retires_at > asyncio.get_running_loop().time():
                return wire
            self.lose(wire)
        if len(self.wires) < self._most:
            self.asked_at.append(asyncio.get_running_loop().time())
            if self.reachable:
                wire = FakeWire(self)
                self.wires.add(wire)
                return wire
        return None

    def drop_other_addresses(self, _: None, kept: Collection[FakeWire]) -> None:
        """Drop all others."""
        for wire in self.wires - set(kept):
            wire.drop()

    def check_idle(self) -> None:
        """Count that it was asked for."""
        self.checks += 1

    def checkin(self, wire: FakeWire) -> None:
        """Take it back unused."""
        self._idle.append(wire)

    def free(self, wire: FakeWire) -> None:
        """Take it back after an exchange, unless it was dropped meanwhile."""
        if wire in self.wires:
            self._idle.append(wire)
        self.batcher.flush_soon()

    def lose(self, wire: FakeWire) -> None:
        """Forget it."""
        self.wires.discard(wire)
        if wire in self._idle:
            self._idle.remove(wire)
        if wire in self.exchanges:
            self.exchanges.remove(wire)
        self.batcher.flush_soon()

    def fail(self, failure: Failure) -> None:
        """Let an attempt to connect have failed."""
        self.batcher.on_unreachable(failure)


class Wires:
    """A batcher on a fake transport, with the defaults of the options."""

    def __init__(
        self,
        wires: int = 1,
        *,
        retries: int = 3,
        budget: float = 1.0,
        most_calls: int = 10_000,
        most_bytes: int = 64 * 1024 * 1024,
        router: Router | None = None,
        demotes: bool = False,
    ) -> None:
        self.counters = CacheStats()
        self.loop = asyncio.get_running_loop()
        self.health: list[str] = []
        """What was said of the server: `heard`, or the code of a call that has failed."""
        self.batcher = Batcher(
            self.counters,
            on_answer=lambda: self.health.append("heard"),
            on_failure=self.health.append,
            on_timeout=lambda: self.pool.check_idle(),  # noqa: PLW0108  it is made below
            budget=budget,
            retries=retries,
            queue=RequestQueue(most_calls, most_bytes),
            # Without jitter, so that the pauses are known.
            backoff=RetryBackoff(self.loop.time, lambda: HALF),
            router=router,
            demotion=Demotion(self.loop.time, budget, lambda: self.batcher.drain())  # noqa: PLW0108  it is made here
            if demotes
            else None,
        )
        self.pool = FakeTransport(wires)
        self.pool.batcher = self.batcher
        self.batcher.use_pool(cast("Any", self.pool))

    @property
    def wire(self) -> FakeWire:
        """The only wire with an exchange under way."""
        (wire,) = self.pool.exchanges
        return wire

    @property
    def timers(self) -> int:
        """How many timers of the loop are set."""
        handles: list[asyncio.TimerHandle] = cast("Any", self.loop)._scheduled
        return sum(not handle.cancelled() for handle in handles)
