"""One load, not many: in this process by sharing it, across processes by a lease on the server.

A load runs in a task of its own, which no caller owns: callers hold futures, so any of them may be
cancelled. When the last one has left, the load is cancelled too. What it gives is published only while
its lease holds (see `_leases`); in any case it goes to those who asked for it.
"""

from __future__ import annotations

import asyncio
import contextlib
import secrets
from collections.abc import Awaitable, Callable, Coroutine, Iterable
from typing import Any, Final, NamedTuple, TypeVar

from ._batcher import Batcher
from ._commands import LEASE_MARK, READ, Verb
from ._counters import CacheStats
from ._errors import (
    CacheError,
    CacheOutcomeUnknown,
    CacheOverloaded,
    CacheServerError,
    CacheStateError,
    CacheTimeout,
    CacheUnavailable,
)
from ._failures import Failure
from ._leases import LEASE, RELEASE, RENEW, is_lease

__all__ = ["AWAY", "Loading", "Wanted"]

T = TypeVar("T")

_SECOND: Final = 1000
_TOKEN_BYTES: Final = 16
_FIRST_LOOK: Final = 0.005
_LONGEST_PAUSE: Final = 0.050
"""Seconds between two looks at a key that another is loading."""

AWAY: Final = (
    CacheUnavailable,
    CacheTimeout,
    CacheOverloaded,
    CacheOutcomeUnknown,
    CacheServerError,
)
"""What a load goes on without the server for. What it must not do, or cannot do, is said."""
_TOO_LONG: Final = Failure(
    CacheTimeout, "LOAD_TIMEOUT", "the load took longer than loading.hard_timeout"
)
_CLOSED: Final = Failure(CacheStateError, "NOT_OPENED", "the cache was closed")

Product = tuple[bytes, int]
"""What was loaded: data, and its life in milliseconds."""


class Wanted(NamedTuple):
    """What a caller asks for, below the hall.

    Attributes:
        produce: loads; None where there is nothing to store.
        suits: whether stored data is what the caller wants.
        read: what the caller has read, and what does not suit; empty for nothing; None where the
            server could not be asked.
    """

    produce: Callable[[], Awaitable[Product | None]]
    suits: Callable[[bytes], bool]
    read: bytes | None


class _Flight:
    """One load and those who wait for it."""

    __slots__ = ("holds_lease", "task", "token", "void", "waiting")

    def __init__(self) -> None:
        self.task: asyncio.Task[bytes | None]
        self.waiting: set[asyncio.Future[bytes | None]] = set()
        self.token = secrets.token_bytes(_TOKEN_BYTES)
        self.holds_lease = False
        self.void = False
        """Whether the key was changed by this process since."""

    def serves(self, wanted: Wanted) -> bool:
        """Whether it can be joined: not by one who has seen that the lease was voided meanwhile."""
        if wanted.read is None or not self.holds_lease:
            return True
        return wanted.read.startswith(LEASE_MARK + self.token)

    def abort(self, failure: Failure) -> None:
        """End it, whether its loader heeds that or not."""
        for future in self.waiting:
            if not future.done():
                future.set_exception(failure.error())
        self.task.cancel()


class Loading:
    """The loads under way in this process.

    Args:
        batcher: asks the server.
        counters: where loads are counted.
        publish: the verb that publishes.
        lease: milliseconds that a lease is good for; it is renewed while the load goes on.
        longest: seconds that a load may take, and that anybody waits for one.
        random: numbers from 0 to 1.
    """

    def __init__(
        self,
        batcher: Batcher,
        counters: CacheStats,
        *,
        publish: Verb,
        lease: int,
        longest: float,
        random: Callable[[], float],
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._batcher = batcher
        self._counters = counters
        self._publish = publish
        self._lease = lease
        self._longest = longest
        self._random = random
        self._flights: dict[bytes, _Flight] = {}
        """Those that can be joined."""
        self._in_the_air: set[_Flight] = set()
        # The loop keeps only weak references to tasks.
        self._tasks: set[asyncio.Task[Any]] = set()

    async def load(self, key: bytes, wanted: Wanted) -> bytes | None:
        """The data that a load gave, ours or another's.

        Raises:
            CacheTimeout: LOAD_TIMEOUT.
            Exception: what the load raised.
        """
        flight = self._flights.get(key)
        if flight is None or not flight.serves(wanted):
            flight = self._flights[key] = self._take_off(key, wanted)
        future = self._loop.create_future()
        flight.waiting.add(future)
        try:
            data: bytes | None = await future
        finally:
            flight.waiting.discard(future)
            if not flight.waiting and not flight.task.done():
                self._forget(key, flight)
                flight.task.cancel()
        return data

    def overtaken(self, keys: Iterable[bytes]) -> None:
        """These keys are being changed here: who asks from now on wants what is loaded from now on."""
        if self._flights:
            for key in keys:
                flight = self._flights.pop(key, None)
                if flight is not None:
                    flight.void = True

    def all_overtaken(self) -> None:
        """Every key is being changed."""
        self.overtaken(tuple(self._flights))

    def stop(self) -> None:
        """End every load; who waits for one is told that the cache was closed."""
        for flight in self._in_the_air:
            flight.abort(_CLOSED)
        for task in self._tasks:
            task.cancel()

    async def stopped(self) -> None:
        """Wait until nothing is left of them."""
        while self._tasks:
            await asyncio.wait(self._tasks)

    def _take_off(self, key: bytes, wanted: Wanted) -> _Flight:
        flight = _Flight()
        self._in_the_air.add(flight)
        flight.task = self._spawn(self._fly(key, flight, wanted))
        limit = self._loop.call_later(self._longest, self._expire, key, flight)

        def land(task: asyncio.Task[bytes | None]) -> None:
            limit.cancel()
            self._in_the_air.discard(flight)
            self._forget(key, flight)
            for future in flight.waiting:
                if future.done():
                    continue
                if task.cancelled():
                    future.cancel()
                elif (error := task.exception()) is not None:
                    future.set_exception(error)
                else:
                    future.set_result(task.result())
            if not task.cancelled():
                task.exception()  # Seen, though nobody may be left to see it.

        flight.task.add_done_callback(land)
        return flight

    def _expire(self, key: bytes, flight: _Flight) -> None:
        self._forget(key, flight)
        flight.abort(_TOO_LONG)

    def _forget(self, key: bytes, flight: _Flight) -> None:
        if self._flights.get(key) is flight:
            del self._flights[key]

    async def _fly(self, key: bytes, flight: _Flight, wanted: Wanted) -> bytes | None:
        try:
            if wanted.read is not None:
                found = await self._compete(key, flight.token, wanted.suits, wanted.read)
                if found is not None:
                    return found
                flight.holds_lease = True
        except AWAY:
            pass
        if not flight.holds_lease:
            # The server cannot be asked: the service goes on, and one load still serves all here.
            product = await self._produce(wanted)
            return None if product is None else product[0]
        renewal = self._spawn(self._renew(key, flight.token))
        published = False
        try:
            product = await self._produce(wanted)
            if product is not None:
                published = await self._publish_product(key, flight, product)
        finally:
            renewal.cancel()
            if not published:
                self._release(key, flight.token)
        return None if product is None else product[0]

    async def _publish_product(self, key: bytes, flight: _Flight, product: Product) -> bool:
        data, life = product
        published = False
        if not flight.void:
            argument = (key, flight.token, data, life)
            try:
                published = bool(await self._batcher.ask(self._publish, argument, len(data) + 64))
            except CacheError:
                # Those who asked get it all the same, and the lease ends by itself.
                return False
        self._counters.overtaken += not published
        return published

    async def _produce(self, wanted: Wanted) -> Product | None:
        self._counters.loads += 1
        try:
            return await wanted.produce()
        except Exception:
            self._counters.load_failures += 1
            raise

    async def _compete(
        self, key: bytes, token: bytes, suits: Callable[[bytes], bool], seen: bytes
    ) -> bytes | None:
        """Get the lease, and None; or what another has stored meanwhile."""
        while True:
            size = 2 * len(key) + len(seen) + 64
            asked = self._batcher.ask(LEASE, (key, token, self._lease, seen), size)
            try:
                answer = await asyncio.shield(asked)
            except asyncio.CancelledError:
                # It may be granted all the same, and nobody else could load until it ended.
                asked.add_done_callback(lambda _: self._release(key, token))
                raise
            if isinstance(answer, bytes):
                if suits(answer):
                    return answer
                seen = answer
            elif answer == 0:
                return None
            else:
                await self._look_on(key, answer / _SECOND)

    async def _look_on(self, key: bytes, left: float) -> None:
        """Wait until the key is not being loaded by another any more, or its lease should have ended."""
        until = self._loop.time() + left
        pause = _FIRST_LOOK
        while (now := self._loop.time()) < until:
            await asyncio.sleep(min(until - now, pause * (0.5 + self._random())))
            pause = min(_LONGEST_PAUSE, 2 * pause)
            data = await self._batcher.ask(READ, key, len(key) + 16)
            if data is None or not is_lease(data):
                return

    async def _renew(self, key: bytes, token: bytes) -> None:
        while True:
            await asyncio.sleep(self._lease / 3 / _SECOND)
            with contextlib.suppress(CacheError):
                await self._batcher.ask(RENEW, (key, token, self._lease), 2 * len(key) + 64)

    def _spawn(self, work: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        task = self._loop.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    def _release(self, key: bytes, token: bytes) -> None:
        # Nobody waits for it: where it fails, the lease ends by itself.
        with contextlib.suppress(CacheError):
            asked = self._batcher.ask(RELEASE, (key, token), 2 * len(key) + 64)
            asked.add_done_callback(_heed_not)


def _heed_not(asked: asyncio.Future[Any]) -> None:
    if not asked.cancelled():
        asked.exception()
