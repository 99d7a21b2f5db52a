"""The connections of one cache: idle ones to send on, more when they are needed, none left behind."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from contextvars import Context
from typing import Any, Final

from async_redis_cache._common.backoff import Backoff
from async_redis_cache._common.endpoint import Address
from async_redis_cache._common.failures import Failure, ServerReply
from async_redis_cache._common.health_log import Condition
from async_redis_cache._common.stats import CacheStats

from .connection import Errand, Wire
from .connector import Dials
from .resp_protocol import Connection, pack

__all__ = ["Transport"]


_PING: Final = pack((b"PING",))
_REPLY_BYTES: Final = 1024
"""More than a server says to that."""


class _Check(Errand):
    """A PING on an idle connection, which is given up unless it answers in time."""

    def __init__(self, wire: Wire, unproven: set[Wire]) -> None:
        self._wire = wire
        self._unproven = unproven
        unproven.add(wire)
        wire.send(_PING, 1, self, keys=0, more=(_REPLY_BYTES, 1))

    def answered(self, replies: list[Any]) -> bool:
        """It is alive, whatever the server thinks of being asked."""
        self._unproven.discard(self._wire)
        return replies == [b"PONG"] or isinstance(replies[0], ServerReply)

    def broken(self, failure: Failure) -> None:  # noqa: ARG002  it is lost, for whatever reason
        """It has ended."""
        self._unproven.discard(self._wire)


class Transport:
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
        dialer: Dials,
        *,
        max_connections: int,
        lifetime: Callable[[], float],
        counters: CacheStats,
        backoff: Backoff,
        ready: Callable[[], None],
        unreachable: Callable[[Failure], None],
        told: Condition,
        bytes_a_key: int,
        check_budget: float = 0.25,
    ) -> None:
        self._counters = counters
        self._backoff = backoff
        self._dialer = dialer
        self._max_connections = max_connections
        self._lifetime = lifetime
        self._loop = asyncio.get_running_loop()
        self._ready = ready
        self._unreachable = unreachable
        self._told = told
        self._bytes_a_key = bytes_a_key
        self._check_budget = check_budget
        self._check: asyncio.TimerHandle | None = None
        self._unproven: set[Wire] = set()
        """Idle connections that are being checked."""
        self._idle: list[Wire] = []
        self._wires: set[Wire] = set()
        self._dialing: asyncio.Task[None] | asyncio.TimerHandle | None = None
        # The loop keeps only weak references to tasks.
        self._tasks: set[asyncio.Task[None]] = set()
        self._closed = False

    def __repr__(self) -> str:
        dialing = ", dialing" if self._dialing else ""
        return f"<Transport {len(self._wires)} wires, {len(self._idle)} idle{dialing}>"

    def checkout(self) -> Wire | None:
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
            self._loop.call_soon(self._look_again, wire, context=Context())
        if self._dialing is None and len(self._wires) < self._max_connections and not self._closed:
            self._dialing = self._loop.call_later(
                self._backoff.remaining(), self._start_dialing, context=Context()
            )
        return None

    def give_back(self, wire: Wire) -> None:
        """Return a wire that was not used after all."""
        self._idle.append(wire)

    def leave(self, place: Address) -> None:
        """Drop every connection that leads there."""
        for wire in tuple(self._wires):
            if wire.place == place:
                wire.drop()

    def leave_all_but(self, place: Address | None) -> None:
        """Drop every connection that leads elsewhere, or all: who waits for one is told that it was lost."""
        for wire in tuple(self._wires):
            if wire.place != place:
                wire.drop()
        if isinstance(self._dialing, asyncio.Task):
            # To where it leads may take long to answer, or never do.
            self._dialing.cancel()

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
                _Check(wire, self._unproven)

    def _end_check(self) -> None:
        self._check = None
        unproven, self._unproven = self._unproven, set()
        for wire in unproven:
            wire.abort()

    def stop(self) -> None:
        """Drop every connection, and make no more."""
        self._closed = True
        self._idle.clear()
        for handle in (self._dialing, self._check):
            if handle is not None:
                handle.cancel()
        for wire in tuple(self._wires):
            wire.abort()

    async def stopped(self) -> None:
        """Wait until nothing is left of them."""
        # Aborted transports report in the loop's next turn, and only then hang up.
        while self._wires or self._tasks:
            await (asyncio.wait(self._tasks) if self._tasks else asyncio.sleep(0))
        await self._dialer.sweep()
        # What was aborted last closes its socket in one turn more.
        await asyncio.sleep(0)

    def abandon(self) -> None:
        """Drop every connection though the event loop is closed."""
        for wire in self._wires:
            wire.abandon()

    def _look_again(self, wire: Wire) -> None:
        """Use a wire again when the loop has read what was there, and it was nothing."""
        if wire.is_closing() or self._closed:
            return
        if wire.has_unread():
            self._loop.call_soon(self._look_again, wire, context=Context())
        else:
            self.give_back(wire)
            self._ready()

    def _start_dialing(self) -> None:
        dialing = self._spawn(self._dial())
        # An eager task may be done already, and what it has left stays.
        if not dialing.done():
            self._dialing = dialing

    async def _dial(self) -> None:
        try:
            outcome = await self._dialer.dial()
        except asyncio.CancelledError:
            self._dialing = None
            if not self._closed:
                self._spawn(self._dialer.sweep())
                self._ready()
            raise
        self._dialing = None
        if not isinstance(outcome, Failure):
            self._adopt(outcome)
            return
        self._backoff.failed()
        # Where there is a wire, it was only not possible to have another.
        if not self._wires:
            self._told.down(outcome.code)
            self._unreachable(outcome)

    def _adopt(self, connection: Connection) -> None:
        wire = Wire(connection, self._freed, self._lost, bytes_a_key=self._bytes_a_key)
        wire.retires_at = self._loop.time() + self._lifetime()
        self._wires.add(wire)
        if self._closed:
            wire.abort()
            return
        self._counters.connects += 1
        self._told.up()
        self._idle.append(wire)
        self._ready()

    def _freed(self, wire: Wire) -> None:
        wire.has_served = True
        self._backoff.succeeded()
        self._idle.append(wire)
        self._ready()

    def _lost(self, wire: Wire) -> None:
        # One that has reached its age is given up on purpose.
        if not wire.has_served and self._loop.time() < wire.retires_at:
            # It was as good as none, and the next may be no better.
            self._backoff.failed()
        self._wires.discard(wire)
        if wire in self._idle:
            self._idle.remove(wire)
        self._spawn(self._dialer.hang_up(wire.connection))
        if not self._closed:
            self._ready()

    def _spawn(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = self._loop.create_task(work, context=Context())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task
