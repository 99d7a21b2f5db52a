"""Links on which a server says what has happened: a connection of its own that is kept alive.

A link is believed only while it is proven alive: it is asked for a sign of life with each heartbeat, and
the answer proves that all news from before the question is here. After two heartbeats without proof it is
given up, and another is made.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable
from contextvars import Context
from typing import Final, NamedTuple

from async_redis_cache._common.backoff import RetryBackoff
from async_redis_cache._common.endpoint import Address
from async_redis_cache._common.failures import Failure
from async_redis_cache._common.health_log import Condition
from async_redis_cache._common.tasks import OwnedTasks

from .connector import SupportsConnect
from .push_connection import Probe, PushConnection, PushHandler

__all__ = ["KeepalivePolicy", "PushChannel"]

_SPREAD: Final = 0.05
"""Seconds over which the processes that have lost a server come back to it."""
_LONG_PAUSE: Final = 1.0
"""Seconds to leave a server alone that loads its data, for the calls ask it often enough, or that refuses
us, for that is not mended within less."""


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
