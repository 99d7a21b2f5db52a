"""One load, not many: in this process by sharing it, across processes by a right on the server.

A load runs in a task of its own, which no caller owns: callers hold futures, so any of them may be
cancelled. When the last one has left, the load is cancelled too, unless it was begun ahead of time, for
those to come. What it gives is published only while its right holds (see `_leases`); in any case it goes
to those who asked for it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Coroutine, Iterable
from contextvars import Context
from functools import partial
from math import inf
from typing import Any, Final, TypeVar

from async_redis_cache._common.errors import (
    CacheError,
    CacheOutcomeUnknown,
    CacheOverloaded,
    CacheServerError,
    CacheStateError,
    CacheTimeout,
    CacheUnavailable,
)
from async_redis_cache._common.failures import Failure
from async_redis_cache._common.outcomes import (
    CallerLeftError,
    Raised,
    caught,
    load_cancelled,
    outcome_of,
)
from async_redis_cache._common.stats import CacheStats
from async_redis_cache._protocol.lease_scripts import Giving
from async_redis_cache._protocol.record import MISSING

from .in_flight_load import Flight, Outcome, Wanted
from .load_cycles import ask_as, asking, refuse_cycle
from .load_lease import Product, Right, Rights, Stored

__all__ = ["AWAY", "Loading"]

T = TypeVar("T")

_MICROSECONDS: Final = 1_000_000

AWAY: Final = (
    CacheUnavailable,
    CacheTimeout,
    CacheOverloaded,
    CacheOutcomeUnknown,
    CacheServerError,
)
"""What a load goes on without the server for. What it must not do, or cannot do, is said."""
_TOO_LONG: Final = Failure(
    CacheTimeout, "LOAD_TIMEOUT", "the load took longer than its hard_timeout"
)
_CLOSED: Final = Failure(CacheStateError, "NOT_OPENED", "the cache was closed")


class Loading:
    """The loads under way in this process.

    Args:
        rights: how the right to load is got.
        counters: where loads are counted.
        owe: remembers keys whose change has failed, so that their old values are not read again.
        background_failed: called with the name of a function, and the type of the exception that ended
            a load for which no caller waited.
    """

    def __init__(
        self,
        rights: Rights,
        counters: CacheStats,
        owe: Callable[[Iterable[bytes], CacheError], None],
        background_failed: Callable[[str, str], None] = lambda _function, _error: None,
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._rights = rights
        self._counters = counters
        self._owe = owe
        self._background_failed = background_failed
        self._flights: dict[bytes, Flight] = {}
        """Those that can be joined."""
        self._in_the_air: set[Flight] = set()
        # The loop keeps only weak references to tasks.
        self._tasks: set[asyncio.Task[Any]] = set()

    async def load(
        self, key: bytes, wanted: Wanted, patience: float | None = None
    ) -> Product | Stored | None:
        """What a load gave, if it is ours; what another has stored; None where patience ended first.

        Args:
            key: what to load.
            wanted: how.
            patience: seconds that the caller waits. The load goes on without.

        Raises:
            CacheTimeout: LOAD_TIMEOUT.
            CacheLoadError: LOAD_CANCELLED, LOAD_CYCLE.
            BaseException: what the loader raised.
        """
        outcome = await self._outcome(key, wanted, patience)
        if isinstance(outcome, Raised):
            raise outcome.error()
        return outcome

    async def _outcome(self, key: bytes, wanted: Wanted, patience: float | None) -> Outcome:
        try:
            refuse_cycle((id(self), key))
        except CacheError:
            wanted.decided()
            raise
        came_at = self._loop.time()
        flight = self._flights.get(key)
        if flight is None or wanted.force or not flight.serves(wanted):
            # Where tasks are eager, it has asked already.
            return await self._landed(key, self._take_off(key, wanted), patience)
        wanted.decided()
        came = flight.right.asked
        outcome = await self._landed(key, flight, patience)
        if not _was_left(outcome) and (
            outcome is None or isinstance(outcome, Raised) or came < flight.good_below
        ):
            return outcome
        while True:
            # What was begun since will do, unless it is for those to come: then there is a value, which
            # is found by who asks for the right. And there is only what is left of the time.
            flight = self._flights.get(key)
            waited = self._loop.time() - came_at
            leads = flight is None or flight.is_ahead
            if flight is None or flight.is_ahead:
                since = None if wanted.since is None else wanted.since + waited
                flight = self._take_off(key, wanted._replace(since=since))
            left = None if patience is None else patience - waited
            outcome = await self._landed(key, flight, left, wanted.longest - waited)
            # A load whose caller has left in the midst of it has to be begun by another.
            if leads or not _was_left(outcome):
                return outcome

    async def _landed(
        self, key: bytes, flight: Flight, patience: float | None, longest: float = inf
    ) -> Outcome:
        """What a flight brings; None where patience ended first.

        Raises:
            CacheTimeout: it took longer than so many seconds.
        """
        future = self._loop.create_future()
        flight.waiting[future] = asking()
        limit = (
            None
            if longest == inf
            else self._loop.call_later(longest, _give_up, future, context=Context())
        )
        try:
            # Again: where tasks are eager, the loader has run, and asked, before anything waited for it.
            refuse_cycle(flight.node.key)
            if patience is not None:
                flight.goes_on = True
                await asyncio.wait((future,), timeout=patience)
                if not future.done():
                    return None
            outcome: Outcome = await future
        finally:
            if limit is not None:
                limit.cancel()
            del flight.waiting[future]
            if not (flight.waiting or flight.goes_on or flight.landed):
                self._forget(key, flight)
                flight.cancel()
        return outcome

    def ahead(self, key: bytes, wanted: Wanted) -> None:
        """Load for those to come, unless somebody does already."""
        if key in self._flights:
            wanted.decided()
        else:
            self._take_off(key, wanted, goes_on=True)

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

    def all_left(self) -> None:
        """Any key may have been changed: no load that is under way is joined. Its publication will show."""
        self._flights.clear()

    def tags_overtaken(self, tags: Collection[bytes]) -> None:
        """These tags are being invalidated here."""
        for key, flight in tuple(self._flights.items()):
            if not flight.tags.isdisjoint(tags):
                self.overtaken((key,))
                if flight.holds_right:
                    # Who asks from now on need not wait for its end.
                    flight.right.give()
            elif flight.steered():
                # Nobody knows yet which tags it will have: its publication will show.
                self._forget(key, flight)

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

    def _take_off(self, key: bytes, wanted: Wanted, *, goes_on: bool = False) -> Flight:
        since = self._loop.time() if wanted.since is None else wanted.since
        right = Right(key, self._rights, since)
        flight = Flight((id(self), key), right, wanted, goes_on=goes_on)
        self._flights[key] = flight
        flight.task = task = self._spawn(self._fly(key, flight, wanted))
        self._in_the_air.add(flight)
        limit = self._loop.call_later(wanted.longest, self._expire, key, flight, context=Context())

        def land(task: asyncio.Task[Outcome]) -> None:
            limit.cancel()
            wanted.decided()
            self._in_the_air.discard(flight)
            flight.landed = flight.node.ended = True
            del flight.task
            self._forget(key, flight)
            # What this cache cancels has no callers any more, or they have their errors.
            outcome = outcome_of(task)
            if flight.goes_on:
                self._note_failure(flight, wanted, outcome)
            for future in flight.waiting:
                if not future.done():
                    future.set_result(outcome)

        task.add_done_callback(land)
        return flight

    def _note_failure(self, flight: Flight, wanted: Wanted, outcome: Outcome) -> None:
        """Tell of a failure that may reach no caller."""
        if flight.expired:
            self._background_failed(wanted.function(), _TOO_LONG.code)
        elif isinstance(outcome, Raised) and not (flight.cancelled or _was_left(outcome)):
            self._background_failed(wanted.function(), outcome.kind.__name__)

    def _expire(self, key: bytes, flight: Flight) -> None:
        self._forget(key, flight)
        flight.expired = True
        flight.abort(_TOO_LONG)

    def _forget(self, key: bytes, flight: Flight) -> None:
        if self._flights.get(key) is flight:
            del self._flights[key]

    async def _fly(self, key: bytes, flight: Flight, wanted: Wanted) -> Outcome:
        ask_as(flight.node)
        return await caught(self._flown(key, flight, wanted))

    async def _flown(self, key: bytes, flight: Flight, wanted: Wanted) -> Outcome:
        right = flight.right
        refusal: CacheError | None = None
        try:
            if wanted.read is not None:
                won = await right.win(
                    wanted.read, wanted.suits, partial(_waits, flight, wanted), force=wanted.force
                )
                if won is False:
                    # Another process loads ahead of time, and nobody here waits for it.
                    self._forget(key, flight)
                    return None
                # What has been stored, or the tags of what is loaded, may be invalid to who comes later.
                flight.good_below = right.asked
                if isinstance(won, Stored):
                    return won
                flight.holds_right = True
                self._counters.refreshes += flight.is_ahead
        except AWAY as error:
            if wanted.strict:
                raise
            refusal = error
        if not flight.holds_right:
            # The server cannot be asked: the service goes on, and one load still serves all here.
            product = await self._produce(flight, wanted)
            if refusal is not None:
                self._not_replaced(key, flight, product, refusal)
            return product
        flight.renewal = self._spawn(right.renew(), Context())
        try:
            product = await self._produce(flight, wanted)
        except BaseException as error:
            left = isinstance(error, CallerLeftError) or (flight.cancelled and not flight.expired)
            right.give(Giving.BACK if left else Giving.AFTER_FAILURE)
            raise
        finally:
            flight.renewal.cancel()
        await self._put_away(key, flight, product)
        return product

    async def _put_away(self, key: bytes, flight: Flight, product: Product) -> None:
        """Publish what was loaded, or give the right back."""
        right = flight.right
        not_replaced = partial(self._not_replaced, key, flight, product)
        try:
            stamped = await right.stamp(product) if product.tags else b""
            if stamped is not None:
                flight.good_below = right.asked if product.tags else inf
                if product.keep and not flight.void and await right.publish(product, stamped):
                    return
        except CacheError as error:
            # Those who asked get it all the same, and the right ends by itself.
            not_replaced(error)
            if isinstance(error, CacheTimeout):
                # Nothing was sent that could publish it, so the right need not last to its end.
                right.give()
            return
        self._counters.superseded_loads += product.keep
        giving = _giving_of(flight, product)
        if giving is Giving.WITH_VALUE:
            right.give(giving, not_replaced)
        else:
            right.give(giving)

    def _not_replaced(
        self, key: bytes, flight: Flight, product: Product, error: CacheError
    ) -> None:
        """What was loaded did not get to the server: the value there must not be read again.

        That is for `refresh`. Other loads found none, or a stale one: that may be read for as long as was agreed.
        """
        if (
            flight.force
            and not flight.void
            and (product.keep or product.kind == MISSING or product.not_kept)
        ):
            self._owe((key,), error)

    async def _produce(self, flight: Flight, wanted: Wanted) -> Product:
        self._counters.loads += 1
        begun = self._loop.time()
        try:
            product = await wanted.produce()
        except BaseException as error:
            if not isinstance(error, asyncio.CancelledError):
                self._counters.load_failures += 1
            elif not flight.cancelled:
                self._counters.load_failures += 1
                raise load_cancelled() from error
            raise
        finally:
            # What the loader has begun and not awaited may ask for the key from now on.
            flight.node.ended = True
        took = self._loop.time() - begun - wanted.idle()
        # The origin's time is not the server's.
        flight.right.since += took
        return product._replace(cost=int(took * _MICROSECONDS))

    def _spawn(
        self, work: Coroutine[Any, Any, T], context: Context | None = None
    ) -> asyncio.Task[T]:
        task = self._loop.create_task(work, context=context)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task


def _give_up(future: asyncio.Future[Any]) -> None:
    if not future.done():
        future.set_result(Raised(_TOO_LONG.error()))


def _was_left(outcome: Outcome) -> bool:
    """Whether a load has ended with its caller, and not with what it came to."""
    return isinstance(outcome, Raised) and outcome.kind is CallerLeftError


def _giving_of(flight: Flight, product: Product) -> Giving:
    """How the right to a load is given back whose result is not published."""
    if product.not_kept is not None:
        # What it replaces is old where a caller has asked for a new one; else it may live to its end.
        return Giving.WITH_VALUE if flight.force else Giving.AFTER_FAILURE
    none_any_more = product.kind == MISSING and not product.keep
    return Giving.WITH_VALUE if none_any_more else Giving.BACK


def _waits(flight: Flight, wanted: Wanted) -> bool:
    """Whether to wait for another process that loads this."""
    wanted.decided()
    return bool(flight.waiting)
