"""The link on which the server says what has changed: CLIENT TRACKING in broadcast mode, RESP3.

It is a connection of its own, so that no exchange delays the news and no news is taken for a
reply. A link is believed only while it is proven alive: it is asked for a sign of life with each
heartbeat, and the answer proves that all news from before the question is here. After two
heartbeats without proof it is given up, and another is made.
"""

from __future__ import annotations

import asyncio
import math
from collections import deque
from collections.abc import Callable, Coroutine
from typing import Any, Final, Protocol

from hiredis import ProtocolError, PushNotification

from ._backoff import Backoff
from ._dialer import Dialer
from ._errors import (
    CacheConfigError,
    CachePermissionError,
    CacheServerError,
    CacheUnsupported,
)
from ._failures import LOST, MISREAD, Failure, ServerReply, failure_of
from ._takeover import NOTHING_YET, Connection, Takeover, pack

__all__ = ["Listener", "Tracking"]

_BACKLOG_BYTES: Final = 1024 * 1024
"""Most bytes of one message: one that is longer names some ten thousand keys, all changed in one
turn of the server. To drop everything costs less, and memory and the loop's time stay bounded."""
_SPREAD: Final = 0.05
"""Seconds over which the processes that have lost a server come back to it."""
_REFUSED: Final = Failure(
    CacheUnsupported,
    "UNSUPPORTED",
    "near_cache.enabled needs a server with RESP3 and CLIENT TRACKING, and a user who may use them",
)
_REFUSALS: Final = (CacheConfigError, CachePermissionError, CacheServerError, CacheUnsupported)
"""What a server that has just served another connection says to RESP3 or to tracking."""


class Listener(Protocol):
    """Who is told what has changed."""

    def changed(self, keys: list[bytes]) -> None:
        """These keys have, whoever changed them: stored, removed, expired or evicted."""
        ...

    def flush(self) -> None:
        """All keys may have."""
        ...

    def trust_until(self, moment: float) -> None:
        """Everything that changed has been told; by that moment this will be said again."""
        ...

    def distrust(self) -> None:
        """From now on nobody tells."""
        ...


class Tracking:
    """Keeps a link alive, and makes another when it is lost.

    Args:
        dialer: makes connections that speak RESP3.
        listener: who is told.
        prefix: of the keys that matter.
        heartbeat: seconds between two signs of life.
        timeout: seconds for an attempt, connecting included.
        lifetime: gives the seconds that a new link is kept for.
        backoff: the pauses between attempts to connect.
        random: numbers from 0 to 1.
        clock: seconds; the same as the listener's.
    """

    def __init__(
        self,
        dialer: Dialer,
        listener: Listener,
        *,
        prefix: bytes,
        heartbeat: float,
        timeout: float,
        lifetime: Callable[[], float],
        backoff: Backoff,
        random: Callable[[], float],
        clock: Callable[[], float],
    ) -> None:
        self._dialer = dialer
        self._listener = listener
        self._order: tuple[bytes, ...] = (b"CLIENT", b"TRACKING", b"ON", b"BCAST")
        if prefix:
            self._order += (b"PREFIX", prefix)
        self._heartbeat = heartbeat
        self._timeout = timeout
        self._lifetime = lifetime
        self._retires_at = math.inf
        self._backoff = backoff
        self._random = random
        self._clock = clock
        self._loop = asyncio.get_running_loop()
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
        self._listener.distrust()
        if self._link is not None:
            self._link.abandon()

    async def _dial(self) -> None:
        deadline = self._clock() + self._timeout
        outcome = await self._dialer.dial()
        if isinstance(outcome, Failure):
            self._ended(outcome)
            return
        patience = 2 * self._heartbeat
        self._link = _Link(
            outcome, self._listener, self._clock, patience, armed=self._armed, lost=self._lost
        )
        self._link.ask(self._order, b"OK")
        self._next = self._loop.call_later(max(0.0, deadline - self._clock()), self._link.abort)

    def _armed(self, link: _Link) -> None:
        self._wait_no_more()
        self._backoff.succeeded()
        self._tell_first(None)
        self._retires_at = self._clock() + self._lifetime()
        self._next = self._loop.call_later(self._heartbeat, self._beat, link)

    def _beat(self, link: _Link) -> None:
        if link.is_overdue() or self._clock() >= self._retires_at:
            link.abort()
        else:
            link.ask((b"PING",), b"PONG")
            self._next = self._loop.call_later(self._heartbeat, self._beat, link)

    def _lost(self, link: _Link, failure: Failure) -> None:
        self._link = None
        self._wait_no_more()
        self._spawn(self._dialer.hang_up(link.connection))
        self._ended(failure)

    def _ended(self, failure: Failure) -> None:
        self._tell_first(failure)
        self._backoff.failed()
        if not self._stopped:
            pause = max(self._backoff.remaining(), _SPREAD * self._random())
            self._next = self._loop.call_later(pause, self.start)

    def _tell_first(self, failure: Failure | None) -> None:
        if not self._first.done():
            refused = failure is not None and failure.kind in _REFUSALS
            self._first.set_result(_REFUSED if refused else failure)

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
        listener: who is told what has changed.
        clock: seconds.
        patience: how many of them a sign of life is good for.
        armed: called once, when the server has agreed to tell.
        lost: called once, when the connection is gone, with the reason.
    """

    def __init__(
        self,
        connection: Connection,
        listener: Listener,
        clock: Callable[[], float],
        patience: float,
        *,
        armed: Callable[[_Link], None],
        lost: Callable[[_Link, Failure], None],
    ) -> None:
        super().__init__(connection)
        self._listener = listener
        self._clock = clock
        self._patience = patience
        self._armed = armed
        self._lost = lost
        self._failure = LOST
        self._alive_until = clock() + patience
        self._asked: deque[tuple[float, bytes]] = deque()
        self._backlog = 0

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
        self._listener.distrust()
        super().abort()

    def data_received(self, data: bytes) -> None:
        """Pass on what has changed; called by the loop."""
        self._backlog += len(data)
        try:
            self._reader.feed(data)
            while not self.is_closing() and (message := self._reader.gets()) is not NOTHING_YET:
                self._backlog = 0
                if isinstance(message, PushNotification):
                    self._pushed(message)
                else:
                    self._answered(message)
        except (ProtocolError, LookupError, TypeError, ValueError):
            # Whatever this is, it is nobody who says what changes.
            self._failure = MISREAD
            self.abort()
        if self._backlog > _BACKLOG_BYTES:
            self.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        """Called by the loop, once."""
        super().connection_lost(exc)
        self._listener.distrust()
        self._lost(self, self._failure)

    def _pushed(self, message: list[Any]) -> None:
        if message[0] != b"invalidate":
            return
        _, keys = message
        if keys is None:
            self._listener.flush()
        else:
            self._listener.changed(keys)

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
            self._listener.trust_until(self._alive_until)
            if answer == b"OK":
                self._armed(self)
