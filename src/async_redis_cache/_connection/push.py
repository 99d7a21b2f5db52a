"""Push connections: connections of their own on which a server sends notifications.

A push connection is valid only while it is proven alive. Each heartbeat sends a probe; its reply proves that every
notification sent before the probe has arrived. After two heartbeats without a reply the connection is closed, and
another is opened.
"""

from __future__ import annotations

import asyncio
import math
from collections import deque
from collections.abc import Callable, Sequence
from contextvars import Context
from typing import Any, Final, NamedTuple, Protocol

from hiredis import PushNotification

from async_redis_cache._common.backoff import RetryBackoff
from async_redis_cache._common.endpoint import Address
from async_redis_cache._common.failures import (
    LOST,
    UNEXPECTED_REPLY,
    Failure,
    ServerReply,
    failure_of,
)
from async_redis_cache._common.health_log import Condition
from async_redis_cache._common.logins import Login
from async_redis_cache._common.tasks import OwnedTasks

from .connection import NOTHING_YET, Connection, RespProtocol, pack
from .connector import SupportsConnect
from .reply_limits import ReplyTooLargeError

__all__ = [
    "KeepalivePolicy",
    "Probe",
    "PushChannel",
    "PushConnection",
    "PushHandler",
    "expecting",
    "refusal_in",
]

_SPREAD: Final = 0.05
"""Seconds over which the reconnections of many processes to one server are spread."""
_LONG_PAUSE: Final = 1.0
"""Seconds before the next attempt at a server that is loading its data, which requests try often enough, or that
refuses the connection, which does not change sooner."""
_BACKLOG_BYTES: Final = 1024 * 1024
"""Limit on the bytes of one message. A longer one names some ten thousand keys that changed at once: dropping all local
entries costs less, and bounds memory and the time in the event loop."""

_BACKLOG_ELEMENTS: Final = 128 * 1024
"""Limit on its elements; each key has several bytes."""


class Probe(NamedTuple):
    """Commands whose replies prove that a connection is alive.

    Attributes:
        commands: sent together; each is a tuple of words.
        on_reply: called with one reply for each; returns a failure if they are not acceptable.
        subscription: a command sent first, to which the server replies with push messages only.
    """

    commands: Sequence[tuple[bytes | str, ...]]
    on_reply: Callable[[Sequence[Any]], Failure | None]
    subscription: tuple[bytes, ...] = ()


def expecting(answer: bytes, *command: bytes) -> Probe:
    """Return a probe of one command with one acceptable reply."""

    def check(replies: Sequence[Any]) -> Failure | None:
        return None if [answer] == replies else refusal_in(replies) or UNEXPECTED_REPLY

    return Probe((command,), check)


def refusal_in(replies: Sequence[Any]) -> Failure | None:
    """Return the failure of the first error among these replies, or None."""
    return next((failure_of(reply) for reply in replies if isinstance(reply, ServerReply)), None)


def _accept_any(replies: Sequence[Any]) -> None:
    pass


class PushHandler(Protocol):
    """Receives what arrives on a push connection."""

    probe: Probe
    """Sent with each heartbeat."""

    def on_event(self, message: list[Any]) -> None:
        """Process a push message.

        Raises:
            LookupError, TypeError, ValueError: the message is malformed; the connection is closed.
        """
        ...

    def on_reply(self, moment: float) -> None:
        """Every notification sent before the probe has arrived; the connection is valid until `moment`."""
        ...

    def on_lost(self) -> None:
        """Notifications may be lost from now on. May be called more than once."""
        ...


class PushConnection(RespProtocol):
    """One push connection, from the login until it is lost.

    Args:
        underlying: see `RespProtocol`.
        handler: receives the messages.
        clock: seconds.
        proof_lifetime: seconds for which the reply to a probe proves that the connection is alive.
        on_active: called once, with the first reply to a probe.
        on_lost: called once, with the reason, when the connection has ended.
    """

    def __init__(
        self,
        underlying: Connection,
        handler: PushHandler,
        clock: Callable[[], float],
        proof_lifetime: float,
        *,
        on_active: Callable[[PushConnection], None],
        on_lost: Callable[[PushConnection, Failure], None],
    ) -> None:
        super().__init__(underlying)
        self._handler = handler
        self._clock = clock
        self._proof_lifetime = proof_lifetime
        self._on_active = on_active
        self._is_active = False
        self._on_lost = on_lost
        self._failure = LOST
        self._alive_until = clock() + proof_lifetime
        self._unanswered: deque[tuple[float, Probe]] = deque()
        self._replies: list[Any] = []
        """Replies to the oldest unanswered probe that have arrived."""
        self._reader.expect(_BACKLOG_BYTES, _BACKLOG_ELEMENTS)

    def send_probe(self, probe: Probe) -> None:
        """Send commands whose replies prove that the connection is alive."""
        self._unanswered.append((self._clock(), probe))
        commands = filter(None, (probe.subscription, *probe.commands))
        self._transport.write(b"".join(map(pack, commands)))

    def is_overdue(self) -> bool:
        """Whether the last reply is too old to prove that the connection is alive."""
        return self._clock() >= self._alive_until

    def has_unread(self) -> bool:
        """Whether data has arrived that the handler has not received, including an incomplete message."""
        return self._reader.received_bytes > 0 or super().has_unread()

    def abort(self) -> None:
        """Reset the connection now; pending messages are discarded."""
        self._handler.on_lost()
        super().abort()

    def data_received(self, data: bytes) -> None:
        """Pass on messages and replies. Called by the event loop."""
        reader = self._reader
        try:
            reader.feed(data)
            while not self.is_closing() and (message := reader.gets()) is not NOTHING_YET:
                reader.expect(_BACKLOG_BYTES, _BACKLOG_ELEMENTS)
                if isinstance(message, PushNotification):
                    self._handler.on_event(message)
                else:
                    self._collect_reply(message)
        except ReplyTooLargeError:
            self.abort()
        except Exception:  # noqa: BLE001  no reply may cause an exception in the event loop
            self._failure = UNEXPECTED_REPLY
            self.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        """Report the end. Called by the event loop, once."""
        super().connection_lost(exc)
        self._handler.on_lost()
        self._on_lost(self, self._failure)

    def _collect_reply(self, reply: object) -> None:
        self._replies.append(reply)
        sent_at, probe = self._unanswered[0]
        if len(self._replies) < len(probe.commands):
            return
        self._unanswered.popleft()
        replies, self._replies = self._replies, []
        failure = probe.on_reply(replies)
        if failure is not None:
            self._failure = failure
            self.abort()
        elif self.is_overdue():
            self._on_late_reply()
        else:
            # Counted from when the probe was sent. The reply may be read long after it arrived, if the process was
            # suspended or its event loop busy.
            self._alive_until = sent_at + self._proof_lifetime
            self._handler.on_reply(self._alive_until)
            if not self._is_active:
                self._is_active = True
                self._on_active(self)

    def _on_late_reply(self) -> None:
        if self._is_active:
            # The handler has treated the connection as down since, and a new one starts clean.
            self.abort()
        else:
            # Nothing depends on it yet: at the start of a service, the event loop may be busy for longer than that.
            self._alive_until = self._clock() + self._proof_lifetime
            self.send_probe(self._handler.probe)


class KeepalivePolicy(NamedTuple):
    """How a push connection is kept alive.

    Attributes:
        heartbeat: seconds between two probes.
        timeout: seconds for an attempt: connect, login and the first reply.
        lifetime: returns the seconds for which a new connection is kept.
        random: numbers from 0 to 1.
        clock: seconds; the same clock as the handler's.
    """

    heartbeat: float
    timeout: float
    lifetime: Callable[[], float]
    random: Callable[[], float]
    clock: Callable[[], float]


class PushChannel:
    """Keeps a push connection open, and reconnects when it is lost.

    Args:
        connector: opens connections that speak RESP3.
        handler: receives the messages.
        subscription: the first probe, which makes the server send notifications.
        policy: how the connection is kept alive.
        health: records when it goes down and up.
    """

    def __init__(
        self,
        connector: SupportsConnect,
        handler: PushHandler,
        *,
        subscription: Probe,
        policy: KeepalivePolicy,
        health: Condition,
    ) -> None:
        self._connector = connector
        self._handler = handler
        self.subscription = subscription
        """Sent first on the next connection."""
        self._policy = policy
        self._health = health
        self._clock = policy.clock
        self._loop = asyncio.get_running_loop()
        self._backoff = RetryBackoff(self._loop.time, policy.random)
        self._retires_at = math.inf
        self._first_attempt: asyncio.Future[Failure | None] = self._loop.create_future()
        self._connection: PushConnection | None = None
        self._next: asyncio.TimerHandle | None = None
        self._connecting: asyncio.Task[None] | None = None
        # No task lasts as long as a connection: a loop that is closed too early would leave it unfinished.
        self._tasks = OwnedTasks()
        self._stopped = False
        self.failure: Failure | None = None
        """Why the last attempt failed or the connection was lost; None while it is active."""

    def start(self) -> None:
        """Connect, and reconnect until `stop`."""
        self._connecting = self._tasks.spawn(self._connect())

    async def first_attempt(self) -> Failure | None:
        """Wait for the first attempt; return its failure, or None if the connection is active."""
        return await asyncio.shield(self._first_attempt)

    def stop(self) -> None:
        """Close the connection and stop reconnecting."""
        self._stopped = True
        self._cancel_timer()
        if self._connecting is not None:
            self._connecting.cancel()
        if self._connection is not None:
            self._connection.abort()

    async def stopped(self) -> None:
        """Wait until the socket is closed and every task has ended."""
        # An aborted transport calls connection_lost in the next iteration of the loop, before it closes the socket.
        while self._connection is not None or self._tasks:
            await (self._tasks.wait() if self._tasks else asyncio.sleep(0))
        await self._connector.close_idle()
        # The socket is closed one iteration later.
        await asyncio.sleep(0)

    def has_unread(self) -> bool:
        """Whether data has arrived that the handler has not received."""
        return self._connection is not None and self._connection.has_unread()

    def abandon(self) -> None:
        """Close the socket although the event loop is closed."""
        self._handler.on_lost()
        if self._connection is not None:
            self._connection.abandon()

    def drop_other_addresses(self, address: Address | None) -> None:
        """Reconnect if connected to another address, or in any case for None."""
        if self._connection is not None:
            if self._connection.address != address:
                self._connection.abort()
        else:
            # The old address may take long to answer, or never do.
            self._restart_connecting()

    def reauthenticate(self, login: Login) -> None:
        """Log in again. If the server refuses that, the former login counts."""
        if self._connection is not None:
            if not self._connection.is_closing():
                self._connection.send_probe(Probe(((b"AUTH", *login),), _accept_any))
        else:
            self._restart_connecting()

    def _restart_connecting(self) -> None:
        if self._connecting is not None and not self._connecting.done():
            self._connecting.cancel()
            self.start()

    async def _connect(self) -> None:
        deadline = self._clock() + self._policy.timeout
        outcome = await self._connector.open_connection()
        if isinstance(outcome, Failure):
            self._ended(outcome)
            return
        proof_lifetime = 2 * self._policy.heartbeat
        self._connection = connection = PushConnection(
            outcome,
            self._handler,
            self._clock,
            proof_lifetime,
            on_active=self._on_active,
            on_lost=self._on_lost,
        )
        connection.send_probe(self.subscription)
        self._next = self._loop.call_later(
            max(0.0, deadline - self._clock()), connection.abort, context=Context()
        )

    def _on_active(self, connection: PushConnection) -> None:
        self._cancel_timer()
        self._backoff.succeeded()
        self.failure = None
        self._end_first_attempt(None)
        self._health.up()
        self._retires_at = self._clock() + self._policy.lifetime()
        self._next = self._loop.call_later(
            self._policy.heartbeat, self._send_heartbeat, connection, context=Context()
        )

    def _send_heartbeat(self, connection: PushConnection) -> None:
        if connection.is_overdue() or self._clock() >= self._retires_at:
            connection.abort()
        else:
            connection.send_probe(self._handler.probe)
            self._next = self._loop.call_later(
                self._policy.heartbeat, self._send_heartbeat, connection, context=Context()
            )

    def _on_lost(self, connection: PushConnection, failure: Failure) -> None:
        self._connection = None
        self._cancel_timer()
        self._tasks.spawn(self._connector.discard_connection(connection.underlying))
        self._ended(failure)

    def _ended(self, failure: Failure) -> None:
        self.failure = failure
        self._end_first_attempt(failure)
        self._backoff.failed()
        if not self._stopped:
            # A connection at the end of its lifetime was closed on purpose; a failure of the next one is recorded.
            if self._clock() < self._retires_at:
                self._health.down(failure.code)
            self._retires_at = math.inf
            is_long = failure.code == "LOADING" or not failure.retryable
            shortest = _LONG_PAUSE if is_long else 0.0
            pause = max(self._backoff.remaining(), shortest + _SPREAD * self._policy.random())
            self._next = self._loop.call_later(pause, self.start, context=Context())

    def _end_first_attempt(self, failure: Failure | None) -> None:
        if not self._first_attempt.done():
            self._first_attempt.set_result(failure)

    def _cancel_timer(self) -> None:
        if self._next is not None:
            self._next.cancel()
