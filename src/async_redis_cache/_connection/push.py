"""Links on which a server says what has happened: a connection of its own that is kept alive.

A link is believed only while it is proven alive: it is asked for a sign of life with each heartbeat, and
the answer proves that all news from before the question is here. After two heartbeats without proof it is
given up, and another is made.
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
"""Seconds over which the processes that have lost a server come back to it."""
_LONG_PAUSE: Final = 1.0
"""Seconds to leave a server alone that loads its data, for the calls ask it often enough, or that refuses
us, for that is not mended within less."""
_BACKLOG_BYTES: Final = 1024 * 1024
"""Most bytes of one message: one that is longer names some ten thousand keys, all changed in one
turn of the server. To drop everything costs less, and memory and the loop's time stay bounded."""

_BACKLOG_ELEMENTS: Final = 128 * 1024
"""The same of elements: keys have some bytes."""


class Probe(NamedTuple):
    """What a server is asked, and the sign of life is that it answers.

    Attributes:
        commands: sent together.
        heed: takes the replies, one to each; why they are no answer, where they are none.
        subscription: a command in front of them that is answered by messages alone.
    """

    commands: Sequence[tuple[bytes, ...]]
    on_reply: Callable[[Sequence[Any]], Failure | None]
    subscription: tuple[bytes, ...] = ()


def expecting(answer: bytes, *command: bytes) -> Probe:
    """A question that has one right answer."""

    def heed(replies: Sequence[Any]) -> Failure | None:
        return None if [answer] == replies else refusal_in(replies) or UNEXPECTED_REPLY

    return Probe((command,), heed)


def refusal_in(replies: Sequence[Any]) -> Failure | None:
    """Why the server refuses a command, if it does."""
    return next((failure_of(reply) for reply in replies if isinstance(reply, ServerReply)), None)


class PushHandler(Protocol):
    """Who is told what a link brings."""

    probe: Probe
    """What is asked with each heartbeat."""

    def on_event(self, message: list[Any]) -> None:
        """A message of the server that nobody asked for.

        Raises:
            LookupError, TypeError, ValueError: it makes no sense. The link is given up.
        """
        ...

    def on_reply(self, moment: float) -> None:
        """Everything that has happened has been told; by that moment this will be said again."""
        ...

    def on_lost(self) -> None:
        """From now on nothing is told."""
        ...


class PushConnection(RespProtocol):
    """One connection, from before it is armed until it is lost.

    Args:
        connection: see `Takeover`.
        hearer: who is told.
        clock: seconds.
        patience: how many of them a sign of life is good for.
        armed: called once, with the first sign of life.
        lost: called once, when the connection is gone, with the reason.
    """

    def __init__(
        self,
        connection: Connection,
        handler: PushHandler,
        clock: Callable[[], float],
        patience: float,
        *,
        active: Callable[[PushConnection], None],
        lost: Callable[[PushConnection, Failure], None],
    ) -> None:
        super().__init__(connection)
        self._handler = handler
        self._clock = clock
        self._patience = patience
        self._active = active
        self._is_active = False
        self._lost = lost
        self._failure = LOST
        self._alive_until = clock() + patience
        self._asked: deque[tuple[float, Probe]] = deque()
        self._replies: list[Any] = []
        """To the question that was asked first, as far as they are here."""
        self._reader.expect(_BACKLOG_BYTES, _BACKLOG_ELEMENTS)

    def send_probe(self, question: Probe) -> None:
        """Ask for a sign of life."""
        self._asked.append((self._clock(), question))
        commands = filter(None, (question.subscription, *question.commands))
        self._transport.write(b"".join(map(pack, commands)))

    def is_overdue(self) -> bool:
        """Whether the last sign of life is too old to believe in it."""
        return self._clock() >= self._alive_until

    def has_unread(self) -> bool:
        """Whether something has come that has not been passed on, half a message included."""
        return self._reader.received > 0 or super().has_unread()

    def abort(self) -> None:
        """End the link now: what it would have told is not told any more."""
        self._handler.on_lost()
        super().abort()

    def data_received(self, data: bytes) -> None:
        """Pass on what is told; called by the loop."""
        reader = self._reader
        try:
            reader.feed(data)
            while not self.is_closing() and (message := reader.gets()) is not NOTHING_YET:
                reader.expect(_BACKLOG_BYTES, _BACKLOG_ELEMENTS)
                if isinstance(message, PushNotification):
                    self._handler.on_event(message)
                else:
                    self._answered(message)
        except ReplyTooLargeError:
            self.abort()
        except Exception:  # noqa: BLE001  whatever a server says, it must not end in the loop's own log
            self._failure = UNEXPECTED_REPLY
            self.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        """Called by the loop, once."""
        super().connection_lost(exc)
        self._handler.on_lost()
        self._lost(self, self._failure)

    def _answered(self, reply: object) -> None:
        self._replies.append(reply)
        asked_at, question = self._asked[0]
        if len(self._replies) < len(question.commands):
            return
        self._asked.popleft()
        replies, self._replies = self._replies, []
        failure = question.on_reply(replies)
        if failure is not None:
            self._failure = failure
            self.abort()
        elif self.is_overdue():
            # Late: what was given meanwhile was rightly withheld, and begins anew.
            self.abort()
        else:
            # From when it was asked, not from when we came to read the answer: that may be long
            # after, when the process was stopped or its loop was busy.
            self._alive_until = asked_at + self._patience
            self._handler.on_reply(self._alive_until)
            if not self._is_active:
                self._is_active = True
                self._active(self)


class KeepalivePolicy(NamedTuple):
    """How a link is kept.

    Attributes:
        heartbeat: seconds between two signs of life.
        timeout: seconds for an attempt, connecting included.
        lifetime: gives the seconds that a new link is kept for.
        random: numbers from 0 to 1.
        clock: seconds; the same as the hearer's.
    """

    heartbeat: float
    timeout: float
    lifetime: Callable[[], float]
    random: Callable[[], float]
    clock: Callable[[], float]


class PushChannel:
    """Keeps a link alive, and makes another when it is lost.

    Args:
        dialer: makes connections that speak RESP3.
        hearer: who is told.
        order: what the server is asked first, to let it tell.
        pace: how the link is kept.
        told: where it is told when it is lost, and armed again.
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
        self._subscription = subscription
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
        """Why the last attempt failed, or the link was lost; None while it is armed."""

    def start(self) -> None:
        """Begin, and go on until `stop`."""
        self._connecting = self._tasks.spawn(self._connect())

    async def first_attempt(self) -> Failure | None:
        """How the first attempt ended; None when the link is armed."""
        return await asyncio.shield(self._first_attempt)

    def stop(self) -> None:
        """Give up the link at once."""
        self._stopped = True
        self._cancel_timer()
        if self._connecting is not None:
            self._connecting.cancel()
        if self._connection is not None:
            self._connection.abort()

    async def stopped(self) -> None:
        """Wait until nothing is left of it."""
        # An aborted transport reports in the loop's next turn, and only then hangs up.
        while self._connection is not None or self._tasks:
            await (self._tasks.wait() if self._tasks else asyncio.sleep(0))
        await self._connector.close_idle()
        # What was aborted last closes its socket in one turn more.
        await asyncio.sleep(0)

    def has_unread(self) -> bool:
        """Whether there is news that has come, and has not been passed on."""
        return self._connection is not None and self._connection.has_unread()

    def abandon(self) -> None:
        """Give up the link though the event loop is closed."""
        self._handler.on_lost()
        if self._connection is not None:
            self._connection.abandon()

    def drop_other_addresses(self, place: Address | None) -> None:
        """Give up a link that leads elsewhere, or wherever it leads, and make another."""
        if self._connection is not None:
            if self._connection.address != place:
                self._connection.abort()
        elif self._connecting is not None and not self._connecting.done():
            # To where it leads may take long to answer, or never do.
            self._connecting.cancel()
            self.start()

    async def _connect(self) -> None:
        deadline = self._clock() + self._policy.timeout
        outcome = await self._connector.open_connection()
        if isinstance(outcome, Failure):
            self._ended(outcome)
            return
        patience = 2 * self._policy.heartbeat
        self._connection = link = PushConnection(
            outcome,
            self._handler,
            self._clock,
            patience,
            active=self._on_active,
            lost=self._on_lost,
        )
        link.send_probe(self._subscription)
        self._next = self._loop.call_later(
            max(0.0, deadline - self._clock()), link.abort, context=Context()
        )

    def _on_active(self, link: PushConnection) -> None:
        self._cancel_timer()
        self._backoff.succeeded()
        self.failure = None
        self._end_first_attempt(None)
        self._health.up()
        self._retires_at = self._clock() + self._policy.lifetime()
        self._next = self._loop.call_later(
            self._policy.heartbeat, self._send_heartbeat, link, context=Context()
        )

    def _send_heartbeat(self, link: PushConnection) -> None:
        if link.is_overdue() or self._clock() >= self._retires_at:
            link.abort()
        else:
            link.send_probe(self._handler.probe)
            self._next = self._loop.call_later(
                self._policy.heartbeat, self._send_heartbeat, link, context=Context()
            )

    def _on_lost(self, link: PushConnection, failure: Failure) -> None:
        self._connection = None
        self._cancel_timer()
        self._tasks.spawn(self._connector.discard_connection(link.connection))
        self._ended(failure)

    def _ended(self, failure: Failure) -> None:
        self.failure = failure
        self._end_first_attempt(failure)
        self._backoff.failed()
        if not self._stopped:
            # One that has reached its age is given up on purpose; its successor may fail.
            if self._clock() < self._retires_at:
                self._health.down(failure.code)
            self._retires_at = math.inf
            is_long = failure.code == "LOADING" or not failure.retryable
            least = _LONG_PAUSE if is_long else 0.0
            pause = max(self._backoff.remaining(), least + _SPREAD * self._policy.random())
            self._next = self._loop.call_later(pause, self.start, context=Context())

    def _end_first_attempt(self, failure: Failure | None) -> None:
        if not self._first_attempt.done():
            self._first_attempt.set_result(failure)

    def _cancel_timer(self) -> None:
        if self._next is not None:
            self._next.cancel()
