"""Links on which a server says what has happened: a connection of its own that is kept alive.

A link is believed only while it is proven alive: it is asked for a sign of life with each heartbeat, and
the answer proves that all news from before the question is here. After two heartbeats without proof it is
given up, and another is made.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable, Coroutine
from contextvars import Context
from typing import Any, Final, NamedTuple

from async_redis_cache._common.backoff import Backoff
from async_redis_cache._common.endpoint import Address
from async_redis_cache._common.failures import Failure
from async_redis_cache._common.health_log import Condition

from .connector import Dials
from .push_connection import Hearer, Link, Question

__all__ = ["Keeper", "Pace"]

_SPREAD: Final = 0.05
"""Seconds over which the processes that have lost a server come back to it."""
_LONG_PAUSE: Final = 1.0
"""Seconds to leave a server alone that loads its data, for the calls ask it often enough, or that refuses
us, for that is not mended within less."""


class Pace(NamedTuple):
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


class Keeper:
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
        dialer: Dials,
        hearer: Hearer,
        *,
        order: Question,
        pace: Pace,
        told: Condition,
    ) -> None:
        self._dialer = dialer
        self._hearer = hearer
        self._order = order
        self._pace = pace
        self._told = told
        self._clock = pace.clock
        self._loop = asyncio.get_running_loop()
        self._backoff = Backoff(self._loop.time, pace.random)
        self._retires_at = math.inf
        self._first: asyncio.Future[Failure | None] = self._loop.create_future()
        self._link: Link | None = None
        self._next: asyncio.TimerHandle | None = None
        self._dialing: asyncio.Task[None] | None = None
        # The loop keeps only weak references to tasks. None of them lasts as long as a link does:
        # a loop that is closed without us would leave it unfinished.
        self._tasks: set[asyncio.Task[None]] = set()
        self._stopped = False
        self.failure: Failure | None = None
        """Why the last attempt failed, or the link was lost; None while it is armed."""

    def start(self) -> None:
        """Begin, and go on until `stop`."""
        self._dialing = self._spawn(self._dial())

    async def first(self) -> Failure | None:
        """How the first attempt ended; None when the link is armed."""
        return await asyncio.shield(self._first)

    def stop(self) -> None:
        """Give up the link at once."""
        self._stopped = True
        self._wait_no_more()
        if self._dialing is not None:
            self._dialing.cancel()
        if self._link is not None:
            self._link.abort()

    async def stopped(self) -> None:
        """Wait until nothing is left of it."""
        # An aborted transport reports in the loop's next turn, and only then hangs up.
        while self._link is not None or self._tasks:
            await (asyncio.wait(self._tasks) if self._tasks else asyncio.sleep(0))
        await self._dialer.sweep()
        # What was aborted last closes its socket in one turn more.
        await asyncio.sleep(0)

    def has_unread(self) -> bool:
        """Whether there is news that has come, and has not been passed on."""
        return self._link is not None and self._link.has_unread()

    def abandon(self) -> None:
        """Give up the link though the event loop is closed."""
        self._hearer.silent()
        if self._link is not None:
            self._link.abandon()

    def leave_all_but(self, place: Address | None) -> None:
        """Give up a link that leads elsewhere, or wherever it leads, and make another."""
        if self._link is not None:
            if self._link.place != place:
                self._link.abort()
        elif self._dialing is not None and not self._dialing.done():
            # To where it leads may take long to answer, or never do.
            self._dialing.cancel()
            self.start()

    async def _dial(self) -> None:
        deadline = self._clock() + self._pace.timeout
        outcome = await self._dialer.dial()
        if isinstance(outcome, Failure):
            self._ended(outcome)
            return
        patience = 2 * self._pace.heartbeat
        self._link = link = Link(
            outcome, self._hearer, self._clock, patience, armed=self._armed, lost=self._lost
        )
        link.ask(self._order)
        self._next = self._loop.call_later(
            max(0.0, deadline - self._clock()), link.abort, context=Context()
        )

    def _armed(self, link: Link) -> None:
        self._wait_no_more()
        self._backoff.succeeded()
        self.failure = None
        self._tell_first(None)
        self._told.up()
        self._retires_at = self._clock() + self._pace.lifetime()
        self._next = self._loop.call_later(
            self._pace.heartbeat, self._beat, link, context=Context()
        )

    def _beat(self, link: Link) -> None:
        if link.is_overdue() or self._clock() >= self._retires_at:
            link.abort()
        else:
            link.ask(self._hearer.question)
            self._next = self._loop.call_later(
                self._pace.heartbeat, self._beat, link, context=Context()
            )

    def _lost(self, link: Link, failure: Failure) -> None:
        self._link = None
        self._wait_no_more()
        self._spawn(self._dialer.hang_up(link.connection))
        self._ended(failure)

    def _ended(self, failure: Failure) -> None:
        self.failure = failure
        self._tell_first(failure)
        self._backoff.failed()
        if not self._stopped:
            # One that has reached its age is given up on purpose; its successor may fail.
            if self._clock() < self._retires_at:
                self._told.down(failure.code)
            self._retires_at = math.inf
            is_long = failure.code == "LOADING" or not failure.passing
            least = _LONG_PAUSE if is_long else 0.0
            pause = max(self._backoff.remaining(), least + _SPREAD * self._pace.random())
            self._next = self._loop.call_later(pause, self.start, context=Context())

    def _tell_first(self, failure: Failure | None) -> None:
        if not self._first.done():
            self._first.set_result(failure)

    def _wait_no_more(self) -> None:
        if self._next is not None:
            self._next.cancel()

    def _spawn(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = self._loop.create_task(work, context=Context())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task
