"""Links on which a server says what has happened: a connection of its own that is kept alive.

A link is believed only while it is proven alive: it is asked for a sign of life with each heartbeat, and
the answer proves that all news from before the question is here. After two heartbeats without proof it is
given up, and another is made.
"""

from __future__ import annotations

import asyncio
import math
from collections import deque
from collections.abc import Callable, Coroutine
from typing import Any, Final, NamedTuple, Protocol

from hiredis import ProtocolError, PushNotification

from ._backoff import Backoff
from ._dialer import Dials
from ._failures import LOST, MISREAD, Failure, ServerReply, failure_of
from ._journal import Condition
from ._takeover import NOTHING_YET, Connection, Takeover, pack
from ._uri import Address

__all__ = ["Hearer", "Keeper", "Pace"]

_BACKLOG_BYTES: Final = 1024 * 1024
"""Most bytes of one message: one that is longer names some ten thousand keys, all changed in one
turn of the server. To drop everything costs less, and memory and the loop's time stay bounded."""
_SPREAD: Final = 0.05
"""Seconds over which the processes that have lost a server come back to it."""
_LOADING_PAUSE: Final = 1.0
"""Seconds to leave a server alone that loads its data: the calls ask it often enough."""


class Hearer(Protocol):
    """Who is told what a link brings."""

    def told(self, message: list[Any]) -> None:
        """A message of the server that nobody asked for.

        Raises:
            LookupError, TypeError, ValueError: it makes no sense. The link is given up.
        """
        ...

    def alive_until(self, moment: float) -> None:
        """Everything that has happened has been told; by that moment this will be said again."""
        ...

    def silent(self) -> None:
        """From now on nothing is told."""
        ...


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
        order: the command by which the server is asked to tell.
        agreed: what it answers when it will; None where it answers nothing.
        pace: how the link is kept.
        told: where it is told when it is lost, and armed again.
    """

    def __init__(
        self,
        dialer: Dials,
        hearer: Hearer,
        *,
        order: tuple[bytes, ...],
        agreed: bytes | None,
        pace: Pace,
        told: Condition,
    ) -> None:
        self._dialer = dialer
        self._hearer = hearer
        self._order = order
        self._agreed = agreed
        self._pace = pace
        self._told = told
        self._clock = pace.clock
        self._loop = asyncio.get_running_loop()
        self._backoff = Backoff(self._loop.time, pace.random)
        self._retires_at = math.inf
        self._first: asyncio.Future[Failure | None] = self._loop.create_future()
        self._link: _Link | None = None
        self._next: asyncio.TimerHandle | None = None
        self._dialing: asyncio.Task[None] | None = None
        # The loop keeps only weak references to tasks. None of them lasts as long as a link does:
        # a loop that is closed without us would leave it unfinished.
        self._tasks: set[asyncio.Task[None]] = set()
        self._stopped = False

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

    def leave_all_but(self, place: Address) -> None:
        """Give up a link that leads elsewhere, and make another."""
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
        self._link = link = _Link(
            outcome, self._hearer, self._clock, patience, armed=self._armed, lost=self._lost
        )
        if self._agreed is None:
            link.send(self._order)
            link.ask((b"PING",), b"PONG")
        else:
            link.ask(self._order, self._agreed)
        self._next = self._loop.call_later(max(0.0, deadline - self._clock()), link.abort)

    def _armed(self, link: _Link) -> None:
        self._wait_no_more()
        self._backoff.succeeded()
        self._tell_first(None)
        self._told.better()
        self._retires_at = self._clock() + self._pace.lifetime()
        self._next = self._loop.call_later(self._pace.heartbeat, self._beat, link)

    def _beat(self, link: _Link) -> None:
        if link.is_overdue() or self._clock() >= self._retires_at:
            link.abort()
        else:
            link.ask((b"PING",), b"PONG")
            self._next = self._loop.call_later(self._pace.heartbeat, self._beat, link)

    def _lost(self, link: _Link, failure: Failure) -> None:
        self._link = None
        self._wait_no_more()
        self._spawn(self._dialer.hang_up(link.connection))
        self._ended(failure)

    def _ended(self, failure: Failure) -> None:
        self._tell_first(failure)
        self._backoff.failed()
        if not self._stopped:
            # One that has reached its age is given up on purpose; its successor may fail.
            if self._clock() < self._retires_at:
                self._told.worse(failure.code)
            self._retires_at = math.inf
            least = _LOADING_PAUSE if failure.code == "LOADING" else 0.0
            pause = max(self._backoff.remaining(), least + _SPREAD * self._pace.random())
            self._next = self._loop.call_later(pause, self.start)

    def _tell_first(self, failure: Failure | None) -> None:
        if not self._first.done():
            self._first.set_result(failure)

    def _wait_no_more(self) -> None:
        if self._next is not None:
            self._next.cancel()

    def _spawn(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = self._loop.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task


class _Link(Takeover):
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
        hearer: Hearer,
        clock: Callable[[], float],
        patience: float,
        *,
        armed: Callable[[_Link], None],
        lost: Callable[[_Link, Failure], None],
    ) -> None:
        super().__init__(connection)
        self._hearer = hearer
        self._clock = clock
        self._patience = patience
        self._armed = armed
        self._is_armed = False
        self._lost = lost
        self._failure = LOST
        self._alive_until = clock() + patience
        self._asked: deque[tuple[float, bytes]] = deque()
        self._backlog = 0

    def send(self, command: tuple[bytes, ...]) -> None:
        """Send a command that is not answered but by messages."""
        self._transport.write(pack(command))

    def ask(self, command: tuple[bytes, ...], answer: bytes) -> None:
        """Send a command whose answer is a sign of life."""
        self._asked.append((self._clock(), answer))
        self._transport.write(pack(command))

    def is_overdue(self) -> bool:
        """Whether the last sign of life is too old to believe in it."""
        return self._clock() >= self._alive_until

    def has_unread(self) -> bool:
        """Whether something has come that has not been passed on, half a message included."""
        return self._backlog > 0 or super().has_unread()

    def abort(self) -> None:
        """End the link now: what it would have told is not told any more."""
        self._hearer.silent()
        super().abort()

    def data_received(self, data: bytes) -> None:
        """Pass on what is told; called by the loop."""
        self._backlog += len(data)
        try:
            self._reader.feed(data)
            while not self.is_closing() and (message := self._reader.gets()) is not NOTHING_YET:
                self._backlog = 0
                if isinstance(message, PushNotification):
                    self._hearer.told(message)
                else:
                    self._answered(message)
        except (ProtocolError, LookupError, TypeError, ValueError):
            # Whatever this is, it is nobody who tells what happens.
            self._failure = MISREAD
            self.abort()
        if self._backlog > _BACKLOG_BYTES:
            self.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        """Called by the loop, once."""
        super().connection_lost(exc)
        self._hearer.silent()
        self._lost(self, self._failure)

    def _answered(self, reply: object) -> None:
        asked_at, answer = self._asked.popleft()
        if reply != answer:
            self._failure = failure_of(reply) if isinstance(reply, ServerReply) else MISREAD
            self.abort()
        elif self.is_overdue():
            # Late: what was given meanwhile was rightly withheld, and begins anew.
            self.abort()
        else:
            # From when it was asked, not from when we came to read the answer: that may be long
            # after, when the process was stopped or its loop was busy.
            self._alive_until = asked_at + self._patience
            self._hearer.alive_until(self._alive_until)
            if not self._is_armed:
                self._is_armed = True
                self._armed(self)
