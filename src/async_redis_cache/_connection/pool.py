"""The connections of one cache: idle ones to send on, more when they are needed, none left behind."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextvars import Context
from typing import Any, Final

from async_redis_cache._common.backoff import RetryBackoff
from async_redis_cache._common.endpoint import Address
from async_redis_cache._common.failures import Failure, ServerReply
from async_redis_cache._common.health_log import Condition
from async_redis_cache._common.stats import CacheStats
from async_redis_cache._common.tasks import OwnedTasks

from .connection import Connection, RedisConnection, ReplyHandler, pack
from .connector import SupportsConnect

__all__ = ["ConnectionPool"]


_PING: Final = pack((b"PING",))
_REPLY_BYTES: Final = 1024
"""More than a server says to that."""


class _Check(ReplyHandler):
    """A PING on an idle connection, which is given up unless it answers in time."""

    def __init__(self, wire: RedisConnection, unproven: set[RedisConnection]) -> None:
        self._wire = wire
        self._unproven = unproven
        unproven.add(wire)
        wire.send(_PING, 1, self, keys=0, more=(_REPLY_BYTES, 1))

    def on_replies(self, replies: list[Any]) -> bool:
        """It is alive, whatever the server thinks of being asked."""
        self._unproven.discard(self._wire)
        return replies == [b"PONG"] or isinstance(replies[0], ServerReply)

    def on_connection_lost(self, failure: Failure) -> None:  # noqa: ARG002  it is lost, for whatever reason
        """It has ended."""
        self._unproven.discard(self._wire)


class ConnectionPool:
    """Lends wires. Connects when all are busy, one attempt at a time, up to `max_connections`.

    Args:
        dialer: makes the connections.
        max_connections: most wires at once.
        lifetime: gives the seconds that a new wire is used for.
        counters: where connections are counted.
        backoff: the pauses between attempts to connect.
        ready: called when a wire can be had that could not before.
        unreachable: called when there is no wire and an attempt to connect has failed.
        told: where that is told, and when there is a wire again.
        bytes_a_key: see `Wire`.
        check_budget: seconds that an idle connection has to answer a check.
    """

    def __init__(
        self,
        connector: SupportsConnect,
        *,
        max_connections: int,
        lifetime: Callable[[], float],
        counters: CacheStats,
        backoff: RetryBackoff,
        ready: Callable[[], None],
        unreachable: Callable[[Failure], None],
        health: Condition,
        bytes_a_key: int,
        check_budget: float = 0.25,
    ) -> None:
        self._counters = counters
        self._backoff = backoff
        self._connector = connector
        self._max_connections = max_connections
        self._lifetime = lifetime
        self._loop = asyncio.get_running_loop()
        self._ready = ready
        self._unreachable = unreachable
        self._health = health
        self._bytes_a_key = bytes_a_key
        self._check_budget = check_budget
        self._check: asyncio.TimerHandle | None = None
        self._unchecked: set[RedisConnection] = set()
        """Idle connections that are being checked."""
        self._idle: list[RedisConnection] = []
        self._connections: set[RedisConnection] = set()
        self._connecting: asyncio.Task[None] | asyncio.TimerHandle | None = None
        self._tasks = OwnedTasks()
        self._closed = False

    def __repr__(self) -> str:
        dialing = ", dialing" if self._connecting else ""
        return f"<Transport {len(self._connections)} wires, {len(self._idle)} idle{dialing}>"

    def checkout(self) -> RedisConnection | None:
        """A wire to send on now, or None.

        After None follows `ready`, or `unreachable` when it was tried to connect and failed.
        """
        while self._idle:
            # The one used last: the others stay idle and show how many are needed.
            wire = self._idle.pop()
            if wire.is_closing():
                continue
            if wire.retires_at <= self._loop.time():
                wire.abort()
                continue
            # On an idle connection that may be a reply that nobody has asked for, which would be
            # taken for the next one's, or the peer's farewell, or, under TLS, just a session
            # ticket. When the loop has read it, we know.
            if not wire.has_unread():
                return wire
            self._loop.call_soon(self._check_unread, wire, context=Context())
        if (
            self._connecting is None
            and len(self._connections) < self._max_connections
            and not self._closed
        ):
            self._connecting = self._loop.call_later(
                self._backoff.remaining(), self._start_connecting, context=Context()
            )
        return None

    def release(self, wire: RedisConnection) -> None:
        """Return a wire that was not used after all."""
        self._idle.append(wire)

    def drop_address(self, place: Address) -> None:
        """Drop every connection that leads there."""
        for wire in tuple(self._connections):
            if wire.address == place:
                wire.drop()

    def drop_other_addresses(self, place: Address | None) -> None:
        """Drop every connection that leads elsewhere, or all: who waits for one is told that it was lost."""
        for wire in tuple(self._connections):
            if wire.address != place:
                wire.drop()
        if isinstance(self._connecting, asyncio.Task):
            # To where it leads may take long to answer, or never do.
            self._connecting.cancel()

    def check_idle(self) -> None:
        """See whether the idle connections are alive, since one that was used has proven not to be.

        A middlebox that forgets connections forgets many at once. None of these is used before it has answered;
        meanwhile others are made.
        """
        if self._check is not None or self._closed:
            # What is idle has answered, or was made, since the check began.
            return
        self._check = self._loop.call_later(self._check_budget, self._end_check, context=Context())
        idle, self._idle = self._idle, []
        for wire in idle:
            if wire.is_closing() or wire.has_unread():
                # It has ended, or something has come: `checkout` sees to both.
                self._idle.append(wire)
            else:
                _Check(wire, self._unchecked)

    def _end_check(self) -> None:
        self._check = None
        unproven, self._unchecked = self._unchecked, set()
        for wire in unproven:
            wire.abort()

    def stop(self) -> None:
        """Drop every connection, and make no more."""
        self._closed = True
        self._idle.clear()
        for handle in (self._connecting, self._check):
            if handle is not None:
                handle.cancel()
        for wire in tuple(self._connections):
            wire.abort()

    async def stopped(self) -> None:
        """Wait until nothing is left of them."""
        # Aborted transports report in the loop's next turn, and only then hang up.
        while self._connections or self._tasks:
            await (self._tasks.wait() if self._tasks else asyncio.sleep(0))
        await self._connector.close_idle()
        # What was aborted last closes its socket in one turn more.
        await asyncio.sleep(0)

    def abandon(self) -> None:
        """Drop every connection though the event loop is closed."""
        for wire in self._connections:
            wire.abandon()

    def _check_unread(self, wire: RedisConnection) -> None:
        """Use a wire again when the loop has read what was there, and it was nothing."""
        if wire.is_closing() or self._closed:
            return
        if wire.has_unread():
            self._loop.call_soon(self._check_unread, wire, context=Context())
        else:
            self.release(wire)
            self._ready()

    def _start_connecting(self) -> None:
        dialing = self._tasks.spawn(self._connect())
        # An eager task may be done already, and what it has left stays.
        if not dialing.done():
            self._connecting = dialing

    async def _connect(self) -> None:
        try:
            outcome = await self._connector.open_connection()
        except asyncio.CancelledError:
            self._connecting = None
            if not self._closed:
                self._tasks.spawn(self._connector.close_idle())
                self._ready()
            raise
        self._connecting = None
        if not isinstance(outcome, Failure):
            self._adopt(outcome)
            return
        self._backoff.failed()
        # Where there is a wire, it was only not possible to have another.
        if not self._connections:
            self._health.down(outcome.code)
            self._unreachable(outcome)

    def _adopt(self, connection: Connection) -> None:
        wire = RedisConnection(connection, self._freed, self._lost, bytes_a_key=self._bytes_a_key)
        wire.retires_at = self._loop.time() + self._lifetime()
        self._connections.add(wire)
        if self._closed:
            wire.abort()
            return
        self._counters.connects += 1
        self._health.up()
        self._idle.append(wire)
        self._ready()

    def _freed(self, wire: RedisConnection) -> None:
        wire.has_served = True
        self._backoff.succeeded()
        self._idle.append(wire)
        self._ready()

    def _lost(self, wire: RedisConnection) -> None:
        # One that has reached its age is given up on purpose.
        if not wire.has_served and self._loop.time() < wire.retires_at:
            # It was as good as none, and the next may be no better.
            self._backoff.failed()
        self._connections.discard(wire)
        if wire in self._idle:
            self._idle.remove(wire)
        self._tasks.spawn(self._connector.discard_connection(wire.connection))
        if not self._closed:
            self._ready()
