"""The link on which the server says what has changed: CLIENT TRACKING in broadcast mode, RESP3.

It is a connection of its own, so that no exchange delays the news and no news is taken for a
reply. A link is believed only while it is proven alive: it is asked for a sign of life with each
heartbeat, and the answer proves that all news from before the question is here. After two
heartbeats without proof it is given up, and another is made.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
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
from ._failures import LOST, TIMED_OUT, Failure, ServerReply, failure_of
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
        self._backoff = backoff
        self._random = random
        self._clock = clock
        self._link: _Link | None = None
        self._task: asyncio.Task[None] | None = None
        self._first: asyncio.Future[Failure | None] = asyncio.get_running_loop().create_future()

    def start(self) -> None:
        """Begin, and go on until `stop`."""
        self._task = asyncio.get_running_loop().create_task(self._keep())

    async def first(self) -> Failure | None:
        """How the first attempt ended; None when the link is armed."""
        return await asyncio.shield(self._first)

    def stop(self) -> None:
        """Give up the link at once."""
        if self._task is not None:
            self._task.cancel()
        if self._link is not None:
            self._link.abort()

    async def stopped(self) -> None:
        """Wait until nothing is left of it."""
        if self._task is not None:
            await asyncio.wait({self._task})
        await self._dialer.sweep()

    def abandon(self) -> None:
        """Give up the link though the event loop is closed."""
        self._listener.distrust()
        if self._link is not None:
            self._link.abandon()

    async def _keep(self) -> None:
        while True:
            deadline = self._clock() + self._timeout
            outcome = await self._dialer.dial()
            if isinstance(outcome, Failure):
                self._tell_first(outcome)
            else:
                self._link = _Link(outcome, self._listener, self._clock, 2 * self._heartbeat)
                try:
                    await self._watch(self._link, deadline)
                finally:
                    self._link.abort()
                    self._link = None
                    await self._dialer.hang_up(outcome)
            self._backoff.failed()
            await asyncio.sleep(max(self._backoff.remaining(), _SPREAD * self._random()))

    async def _watch(self, link: _Link, deadline: float) -> None:
        link.ask(self._order)
        await asyncio.wait({link.armed}, timeout=max(0.0, deadline - self._clock()))
        failure = link.armed.result() if link.armed.done() else TIMED_OUT
        self._tell_first(failure)
        if failure is not None:
            return
        self._backoff.succeeded()
        while not (link.is_closing() or link.is_overdue()):
            await asyncio.wait({link.gone}, timeout=self._heartbeat)
            link.ask((b"PING",))

    def _tell_first(self, failure: Failure | None) -> None:
        if not self._first.done():
            refused = failure is not None and failure.kind in _REFUSALS
            self._first.set_result(_REFUSED if refused else failure)


_REFUSALS: Final = (CacheConfigError, CachePermissionError, CacheServerError, CacheUnsupported)
"""What a server that has just served another connection says to RESP3 or to tracking."""


class _Link(Takeover):
    """One connection, from before it is armed until it is lost."""

    def __init__(
        self,
        connection: Connection,
        listener: Listener,
        clock: Callable[[], float],
        patience: float,
    ) -> None:
        super().__init__(connection)
        loop = asyncio.get_running_loop()
        self.armed: asyncio.Future[Failure | None] = loop.create_future()
        self.gone: asyncio.Future[None] = loop.create_future()
        self._listener = listener
        self._clock = clock
        self._patience = patience
        self._alive_until = clock() + patience
        self._asked: deque[float] = deque()
        self._backlog = 0

    def ask(self, command: tuple[bytes, ...]) -> None:
        """Send a command whose answer is a sign of life."""
        if not self.is_closing():
            self._asked.append(self._clock())
            self._transport.write(pack(command))

    def is_overdue(self) -> bool:
        """Whether the last sign of life is too old to believe in it."""
        return self._clock() >= self._alive_until

    def abort(self) -> None:
        """End the link now: what it would have told is not told any more."""
        self._listener.distrust()
        super().abort()

    def data_received(self, data: bytes) -> None:
        """Pass on what has changed; called by the loop."""
        self._backlog += len(data)
        try:
            self._reader.feed(data)
            while (message := self._reader.gets()) is not NOTHING_YET:
                self._backlog = 0
                if isinstance(message, PushNotification):
                    self._pushed(message)
                else:
                    self._answered(message)
        except (ProtocolError, LookupError, TypeError):
            # Whatever this is, it is nobody who says what changes.
            self.abort()
        if self._backlog > _BACKLOG_BYTES:
            self.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        """Called by the loop, once."""
        super().connection_lost(exc)
        self._listener.distrust()
        if not self.armed.done():
            self.armed.set_result(LOST)
        if not self.gone.done():
            self.gone.set_result(None)

    def _pushed(self, message: list[Any]) -> None:
        kind, keys = message
        if kind != b"invalidate":
            return
        if keys is None:
            self._listener.flush()
        else:
            self._listener.changed(keys)

    def _answered(self, reply: object) -> None:
        asked = self._asked.popleft()
        if isinstance(reply, ServerReply):
            if not self.armed.done():
                self.armed.set_result(failure_of(reply))
            self.abort()
        elif self.is_overdue():
            # Late: what was given meanwhile was rightly withheld, and begins anew.
            self.abort()
        else:
            if not self.armed.done():
                self.armed.set_result(None)
            # From when it was asked, not from when we came to read the answer: that may be long
            # after, when the process was stopped or its loop was busy.
            self._alive_until = asked + self._patience
            self._listener.trust_until(self._alive_until)
