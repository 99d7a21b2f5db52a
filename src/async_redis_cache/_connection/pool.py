"""The connection pool."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection
from contextvars import Context
from functools import partial
from typing import Any, Final

from async_redis_cache._common.backoff import LOADING_PAUSE, RetryBackoff
from async_redis_cache._common.endpoint import Address
from async_redis_cache._common.errors import CacheLoginError
from async_redis_cache._common.failures import Failure, ServerReply
from async_redis_cache._common.health_log import Condition
from async_redis_cache._common.logins import Login
from async_redis_cache._common.stats import CacheStats
from async_redis_cache._common.tasks import OwnedTasks

from .connection import Connection, RedisConnection, ReplyHandler, pack
from .connector import SupportsConnect

__all__ = ["ConnectionPool"]


_PING: Final = pack((b"PING",))
_REPLY_BYTES: Final = 1024
"""Limit on the reply to PING, error texts included."""
_REFUSED_PAUSE: Final = 0.5
"""Seconds before the next attempt after a refused login or certificate, or without a login, as between two probes of an
open circuit. Each attempt is an entry in the log of the server, which may lock the user out after too many, or a call of
the credential provider."""


class _Check(ReplyHandler):
    """A PING or AUTH on an idle connection, which the pool closes unless a reply arrives in time."""

    def __init__(
        self, connection: RedisConnection, being_checked: set[RedisConnection], command: bytes
    ) -> None:
        self._connection = connection
        self._being_checked = being_checked
        being_checked.add(connection)
        connection.send(command, 1, self, keys=0, extra=(_REPLY_BYTES, 1))

    def on_replies(self, replies: list[Any]) -> bool:
        """The connection is alive, even if the server refuses the command. After a refused AUTH, the former login counts."""
        self._being_checked.discard(self._connection)
        return replies in ([b"PONG"], [b"OK"]) or isinstance(replies[0], ServerReply)

    def on_connection_lost(self, failure: Failure) -> None:  # noqa: ARG002  the reason does not matter
        """The connection has ended by itself."""
        self._being_checked.discard(self._connection)


class ConnectionPool:
    """The connections to one server.

    Opens a connection when all are busy: one attempt at a time, up to `max_connections`.

    Args:
        connector: opens the connections.
        max_connections: limit on open connections.
        lifetime: returns the seconds for which a new connection is used.
        counters: counts the connections opened.
        backoff: the pauses between attempts to connect.
        on_available: called when a connection becomes available after `checkout` returned None.
        on_unreachable: called when an attempt to connect fails and no connection is open.
        health: records when the server becomes unreachable, and reachable again.
        max_bytes_per_key: see `RedisConnection`.
        check_budget: seconds within which an idle connection has to reply to a check.
    """

    def __init__(
        self,
        connector: SupportsConnect,
        *,
        max_connections: int,
        lifetime: Callable[[], float],
        counters: CacheStats,
        backoff: RetryBackoff,
        on_available: Callable[[], None],
        on_unreachable: Callable[[Failure], None],
        health: Condition,
        max_bytes_per_key: int,
        check_budget: float = 0.25,
    ) -> None:
        self._counters = counters
        self._backoff = backoff
        self._connector = connector
        self._max_connections = max_connections
        self._lifetime = lifetime
        self._loop = asyncio.get_running_loop()
        self._on_available = on_available
        self._on_unreachable = on_unreachable
        self._health = health
        self._max_bytes_per_key = max_bytes_per_key
        self._check_budget = check_budget
        self._check: asyncio.TimerHandle | None = None
        self._being_checked: set[RedisConnection] = set()
        """Formerly idle connections whose reply to a check is pending."""
        self._idle: list[RedisConnection] = []
        self._connections: set[RedisConnection] = set()
        self._connecting: asyncio.Task[None] | asyncio.Handle | None = None
        self._refusal: Failure | None = None
        """The failure of the last attempt if the login or a certificate was refused, or there was no login."""
        self._logins = 0
        """How many logins `reauthenticate` has been given."""
        self._tasks = OwnedTasks()
        self._closed = False

    def __repr__(self) -> str:
        connecting = ", connecting" if self._connecting else ""
        return f"<ConnectionPool {len(self._connections)} open, {len(self._idle)} idle{connecting}>"

    def checkout(self) -> RedisConnection | None:
        """An idle connection, or None.

        After None, `on_available` is called, or `on_unreachable` if an attempt to connect fails.
        """
        while self._idle:
            # The most recently used: the others stay idle, and show how many are needed.
            connection = self._idle.pop()
            if connection.is_closing():
                continue
            if connection.retires_at <= self._loop.time():
                connection.abort()
                continue
            # Unread data on an idle connection is an unsolicited reply, which would be taken for the next
            # pipeline's, the end of the stream, or, with TLS, a session ticket. The event loop has to read it first.
            if not connection.has_unread():
                return connection
            self._loop.call_soon(self._check_unread, connection, context=Context())
        if (
            self._connecting is None
            and len(self._connections) < self._max_connections
            and not self._closed
        ):
            pause = self._backoff.remaining()
            if pause and self._refusal is not None:
                # Waiting requests would most likely be refused as well.
                self._loop.call_soon(self._report_unreachable, self._refusal, context=Context())
            else:
                # Without a timer where it is due now: none ends while a test freezes the clock (freezegun).
                schedule = partial(self._loop.call_later, pause) if pause else self._loop.call_soon
                self._connecting = schedule(self._start_connecting, context=Context())
        return None

    def checkin(self, connection: RedisConnection) -> None:
        """Return a connection that was not used."""
        self._idle.append(connection)

    def drop_address(self, address: Address) -> None:
        """Close every connection to this address."""
        for connection in tuple(self._connections):
            if connection.address == address:
                connection.drop()

    def drop_other_addresses(
        self, address: Address | None, kept: Collection[RedisConnection] = ()
    ) -> None:
        """Close every connection to another address, or all for None; pipelines in flight fail as lost."""
        for connection in tuple(self._connections):
            if connection.address != address and connection not in kept:
                connection.drop()
        if isinstance(self._connecting, asyncio.Task):
            # The old address may take long to answer, or never do.
            self._connecting.cancel()

    def check_idle(self) -> None:
        """Check that the idle connections are alive, after one in use turned out to be dead.

        A middlebox that drops idle connections drops many at once. None of them is used before it has replied;
        meanwhile new ones are opened.
        """
        if self._check is None and not self._closed:
            # Otherwise each idle connection has replied or was opened since the check began.
            self._check_with(_PING)

    def reauthenticate(self, login: Login) -> None:
        """Log in again on the idle connections; each of the others is replaced when its pipeline has ended.

        Connections that are being opened may have the former login, and are replaced as well.
        """
        self._logins += 1
        if self._check is None and not self._closed:
            self._check_with(pack((b"AUTH", *login)))
            remaining = self._connections - self._being_checked
        else:
            remaining = self._connections
        for connection in remaining:
            connection.retires_at = self._loop.time()

    def _check_with(self, command: bytes) -> None:
        self._check = self._loop.call_later(self._check_budget, self._end_check, context=Context())
        idle, self._idle = self._idle, []
        for connection in idle:
            if connection.is_closing() or connection.has_unread():
                # `checkout` handles both.
                self._idle.append(connection)
            else:
                _Check(connection, self._being_checked, command)

    def _end_check(self) -> None:
        self._check = None
        dead, self._being_checked = self._being_checked, set()
        for connection in dead:
            connection.abort()

    def stop(self) -> None:
        """Close every connection, and open no more."""
        self._closed = True
        self._idle.clear()
        for handle in (self._connecting, self._check):
            if handle is not None:
                handle.cancel()
        for connection in tuple(self._connections):
            connection.abort()

    async def stopped(self) -> None:
        """Wait until every socket is closed and every task has ended."""
        # An aborted transport calls connection_lost in the next iteration of the loop, before it closes the socket.
        while self._connections or self._tasks:
            await (self._tasks.wait() if self._tasks else asyncio.sleep(0))
        await self._connector.close_idle()
        # The socket of the last one is closed one iteration later.
        await asyncio.sleep(0)

    def abandon(self) -> None:
        """Close every socket although the event loop is closed."""
        for connection in self._connections:
            connection.abandon()

    def _check_unread(self, connection: RedisConnection) -> None:
        """Return the connection to the idle ones once the loop has read its data without closing it."""
        if connection.is_closing() or self._closed:
            return
        if connection.has_unread():
            self._loop.call_soon(self._check_unread, connection, context=Context())
        else:
            self.checkin(connection)
            self._on_available()

    def _start_connecting(self) -> None:
        attempt = self._tasks.spawn(self._connect())
        # An eager task may be done already, and has then set `_connecting` itself.
        if not attempt.done():
            self._connecting = attempt
            attempt.add_done_callback(self._on_attempt_ended)

    def _on_attempt_ended(self, attempt: asyncio.Task[None]) -> None:
        # A task that is cancelled before its first step runs nothing of its coroutine, which cannot note it.
        if attempt.cancelled() and self._connecting is attempt:
            self._connecting = None
            if not self._closed:
                self._tasks.spawn(self._connector.close_idle())
                self._on_available()

    async def _connect(self) -> None:
        logins = self._logins
        outcome = await self._connector.open_connection()
        self._connecting = None
        if not isinstance(outcome, Failure):
            self._refusal = None
            self._adopt(outcome, self._lifetime() if logins == self._logins else 0.0)
            return
        if outcome.kind is CacheLoginError or outcome.code == "NO_CREDENTIALS":
            self._refusal = outcome
            self._backoff.failed(_REFUSED_PAUSE)
        else:
            self._refusal = None
            self._backoff.failed(LOADING_PAUSE if outcome.code == "LOADING" else 0.0)
        self._report_unreachable(outcome)

    def _report_unreachable(self, failure: Failure) -> None:
        # With an open connection the server is reachable: only one more could not be opened.
        if not self._connections and not self._closed:
            self._health.down(failure.code)
            self._on_unreachable(failure)

    def _adopt(self, underlying: Connection, lifetime: float) -> None:
        connection = RedisConnection(
            underlying, self._on_free, self._on_lost, max_bytes_per_key=self._max_bytes_per_key
        )
        connection.retires_at = self._loop.time() + lifetime
        self._connections.add(connection)
        if self._closed:
            connection.abort()
            return
        self._counters.connects += 1
        self._health.up()
        self._idle.append(connection)
        self._on_available()

    def _on_free(self, connection: RedisConnection) -> None:
        connection.has_served = True
        if self._backoff.has_failed:
            self._backoff.succeeded()
        self._idle.append(connection)
        self._on_available()

    def _on_lost(self, connection: RedisConnection) -> None:
        # A connection at the end of its lifetime was closed by the pool.
        if not connection.has_served and self._loop.time() < connection.retires_at:
            # It was lost before its first reply, and the next one may be too.
            self._backoff.failed()
        self._connections.discard(connection)
        if connection in self._idle:
            self._idle.remove(connection)
        self._tasks.spawn(self._connector.discard_connection(connection.underlying))
        if not self._closed:
            self._on_available()
