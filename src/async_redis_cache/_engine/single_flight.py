"""One load, not many: in this process by sharing it, across processes by a right on the server.

A load runs in a task of its own, which no caller owns: callers hold futures, so any of them may be
cancelled. When the last one has left, the load is cancelled too, unless it was begun ahead of time, for
those to come. What it gives is published only while its right holds (see `_leases`); in any case it goes
to those who asked for it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Iterable
from contextvars import Context, copy_context
from functools import partial
from math import inf
from typing import Any, Final

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
    CapturedError,
    capture,
    load_cancelled,
    outcome_of,
)
from async_redis_cache._common.stats import CacheStats
from async_redis_cache._common.tasks import OwnedTasks
from async_redis_cache._protocol.lease_scripts import ReleaseMode
from async_redis_cache._protocol.record import MISSING

from .in_flight_load import InFlightLoad, Outcome
from .load_cycles import current_load, loading_as, refuse_cycle
from .load_lease import LeaseContext, LoadLease
from .load_source import LoadResult, LoadSpec, StoredValue

__all__ = ["SERVER_FAILURES", "SingleFlight"]

_MICROSECONDS: Final = 1_000_000

SERVER_FAILURES: Final = (
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


class SingleFlight:
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
        leases: LeaseContext,
        counters: CacheStats,
        add_pending: Callable[[Iterable[bytes], CacheError], None],
        background_failed: Callable[[str, str], None] = lambda _function, _error: None,
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._leases = leases
        self._counters = counters
        self._add_pending = add_pending
        self._background_failed = background_failed
        self._in_flight: dict[bytes, InFlightLoad] = {}
        """Those that can be joined."""
        self._running: set[InFlightLoad] = set()
        self._tasks = OwnedTasks()

    async def load(
        self, key: bytes, wanted: LoadSpec, patience: float | None = None
    ) -> LoadResult | StoredValue | None:
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
        if isinstance(outcome, CapturedError):
            raise outcome.error()
        return outcome

    async def _outcome(self, key: bytes, wanted: LoadSpec, patience: float | None) -> Outcome:
        try:
            refuse_cycle((id(self), key))
        except CacheError:
            wanted.source.on_decided()
            raise
        came_at = self._loop.time()
        flight = self._in_flight.get(key)
        if flight is None or wanted.force or not flight.serves(wanted):
            # Where tasks are eager, it has asked already.
            return await self._wait_for(key, self._start(key, wanted), patience)
        wanted.source.on_decided()
        came = flight.lease.asked
        outcome = await self._wait_for(key, flight, patience)
        if not _was_left(outcome) and (
            outcome is None or isinstance(outcome, CapturedError) or came < flight.good_below
        ):
            return outcome
        while True:
            # What was begun since will do, unless it is for those to come: then there is a value, which
            # is found by who asks for the right. And there is only what is left of the time.
            flight = self._in_flight.get(key)
            waited = self._loop.time() - came_at
            leads = flight is None or flight.is_background
            if flight is None or flight.is_background:
                since = None if wanted.since is None else wanted.since + waited
                flight = self._start(key, wanted._replace(since=since))
            left = None if patience is None else patience - waited
            outcome = await self._wait_for(key, flight, left, wanted.longest - waited)
            # A load whose caller has left in the midst of it has to be begun by another.
            if leads or not _was_left(outcome):
                return outcome

    async def _wait_for(
        self, key: bytes, flight: InFlightLoad, patience: float | None, longest: float = inf
    ) -> Outcome:
        """What a flight brings; None where patience ended first.

        Raises:
            CacheTimeout: it took longer than so many seconds.
        """
        future = self._loop.create_future()
        flight.waiting[future] = current_load()
        limit = (
            None
            if longest == inf
            else self._loop.call_later(longest, _give_up, future, context=Context())
        )
        try:
            # Again: where tasks are eager, the loader has run, and asked, before anything waited for it.
            refuse_cycle(flight.node.key)
            if patience is not None:
                flight.detached = True
                await asyncio.wait((future,), timeout=patience)
                if not future.done():
                    return None
            outcome: Outcome = await future
        finally:
            if limit is not None:
                limit.cancel()
            del flight.waiting[future]
            if not (flight.waiting or flight.detached or flight.finished):
                self._forget(key, flight)
                flight.cancel()
        return outcome

    def refresh_in_background(self, key: bytes, wanted: LoadSpec) -> None:
        """Load for those to come, unless somebody does already."""
        if key in self._in_flight:
            wanted.source.on_decided()
        else:
            self._start(key, wanted, goes_on=True)

    def supersede(self, keys: Iterable[bytes]) -> None:
        """These keys are being changed here: who asks from now on wants what is loaded from now on."""
        if self._in_flight:
            for key in keys:
                flight = self._in_flight.pop(key, None)
                if flight is not None:
                    flight.invalidated = True

    def supersede_all(self) -> None:
        """Every key is being changed."""
        self.supersede(tuple(self._in_flight))

    def detach_all(self) -> None:
        """Any key may have been changed: no load that is under way is joined. Its publication will show."""
        self._in_flight.clear()

    def supersede_tags(self, tags: Collection[bytes]) -> None:
        """These tags are being invalidated here."""
        for key, flight in tuple(self._in_flight.items()):
            if not flight.tags.isdisjoint(tags):
                self.supersede((key,))
                if flight.holds_lease:
                    # Who asks from now on need not wait for its end.
                    flight.lease.release()
            elif flight.source.may_change_tags():
                # Nobody knows yet which tags it will have: its publication will show.
                self._forget(key, flight)

    def stop(self) -> None:
        """End every load; who waits for one is told that the cache was closed."""
        for flight in self._running:
            flight.abort(_CLOSED)
        self._tasks.cancel()

    async def stopped(self) -> None:
        """Wait until nothing is left of them."""
        await self._tasks.wait()

    def _start(self, key: bytes, wanted: LoadSpec, *, goes_on: bool = False) -> InFlightLoad:
        since = self._loop.time() if wanted.since is None else wanted.since
        right = LoadLease(key, self._leases, since)
        flight = InFlightLoad((id(self), key), right, wanted, detached=goes_on)
        self._in_flight[key] = flight
        flight.task = task = self._tasks.spawn(self._run(key, flight, wanted), copy_context())
        self._running.add(flight)
        limit = self._loop.call_later(wanted.longest, self._expire, key, flight, context=Context())

        def land(task: asyncio.Task[Outcome]) -> None:
            limit.cancel()
            wanted.source.on_decided()
            self._running.discard(flight)
            flight.finished = flight.node.ended = True
            del flight.task
            self._forget(key, flight)
            # What this cache cancels has no callers any more, or they have their errors.
            outcome = outcome_of(task)
            if flight.detached:
                self._note_failure(flight, wanted, outcome)
            for future in flight.waiting:
                if not future.done():
                    future.set_result(outcome)

        task.add_done_callback(land)
        return flight

    def _note_failure(self, flight: InFlightLoad, wanted: LoadSpec, outcome: Outcome) -> None:
        """Tell of a failure that may reach no caller."""
        if flight.expired:
            self._background_failed(wanted.source.loader_name(), _TOO_LONG.code)
        elif isinstance(outcome, CapturedError) and not (flight.cancelled or _was_left(outcome)):
            self._background_failed(wanted.source.loader_name(), outcome.kind.__name__)

    def _expire(self, key: bytes, flight: InFlightLoad) -> None:
        self._forget(key, flight)
        flight.expired = True
        flight.abort(_TOO_LONG)

    def _forget(self, key: bytes, flight: InFlightLoad) -> None:
        if self._in_flight.get(key) is flight:
            del self._in_flight[key]

    async def _run(self, key: bytes, flight: InFlightLoad, wanted: LoadSpec) -> Outcome:
        loading_as(flight.node)
        return await capture(self._run_load(key, flight, wanted))

    async def _run_load(self, key: bytes, flight: InFlightLoad, wanted: LoadSpec) -> Outcome:
        right = flight.lease
        refusal: CacheError | None = None
        try:
            if wanted.read is not None:
                won = await right.acquire(
                    wanted.read, wanted.source, partial(_waits, flight, wanted), force=wanted.force
                )
                if won is False:
                    # Another process loads ahead of time, and nobody here waits for it.
                    self._forget(key, flight)
                    return None
                # What has been stored, or the tags of what is loaded, may be invalid to who comes later.
                flight.good_below = right.asked
                if isinstance(won, StoredValue):
                    return won
                flight.holds_lease = True
                self._counters.refreshes += flight.is_background
        except SERVER_FAILURES as error:
            if wanted.strict:
                raise
            refusal = error
        if not flight.holds_lease:
            # The server cannot be asked: the service goes on, and one load still serves all here.
            product = await self._produce(flight, wanted)
            if refusal is not None:
                self._not_replaced(key, flight, product, refusal)
            return product
        flight.renewal = self._tasks.spawn(right.renew())
        try:
            product = await self._produce(flight, wanted)
        except BaseException as error:
            left = isinstance(error, CallerLeftError) or (flight.cancelled and not flight.expired)
            right.release(ReleaseMode.BACK if left else ReleaseMode.AFTER_FAILURE)
            raise
        finally:
            flight.renewal.cancel()
        await self._publish(key, flight, product)
        return product

    async def _publish(self, key: bytes, flight: InFlightLoad, product: LoadResult) -> None:
        """Publish what was loaded, or give the right back."""
        right = flight.lease
        not_replaced = partial(self._not_replaced, key, flight, product)
        try:
            stamped = await right.fetch_tag_versions(product) if product.tags else b""
            if stamped is not None:
                flight.good_below = right.asked if product.tags else inf
                if (
                    product.is_kept
                    and not flight.invalidated
                    and await right.publish(product, stamped)
                ):
                    return
        except CacheError as error:
            # Those who asked get it all the same, and the right ends by itself.
            not_replaced(error)
            if isinstance(error, CacheTimeout):
                # Nothing was sent that could publish it, so the right need not last to its end.
                right.release()
            return
        self._counters.superseded_loads += product.is_kept
        giving = _release_mode_of(flight, product)
        if giving is ReleaseMode.WITH_VALUE:
            right.release(giving, not_replaced)
        else:
            right.release(giving)

    def _not_replaced(
        self, key: bytes, flight: InFlightLoad, product: LoadResult, error: CacheError
    ) -> None:
        """What was loaded did not get to the server: the value there must not be read again.

        That is for `refresh`. Other loads found none, or a stale one: that may be read for as long as was agreed.
        """
        if (
            flight.force
            and not flight.invalidated
            and (product.is_kept or product.kind == MISSING or product.not_kept)
        ):
            self._add_pending((key,), error)

    async def _produce(self, flight: InFlightLoad, wanted: LoadSpec) -> LoadResult:
        self._counters.loads += 1
        begun = self._loop.time()
        try:
            product = await wanted.source.call_loader()
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
        took = self._loop.time() - begun - wanted.source.idle_time()
        # The origin's time is not the server's.
        flight.lease.since += took
        return product._replace(load_duration=int(took * _MICROSECONDS))


def _give_up(future: asyncio.Future[Any]) -> None:
    if not future.done():
        future.set_result(CapturedError(_TOO_LONG.error()))


def _was_left(outcome: Outcome) -> bool:
    """Whether a load has ended with its caller, and not with what it came to."""
    return isinstance(outcome, CapturedError) and outcome.kind is CallerLeftError


def _release_mode_of(flight: InFlightLoad, product: LoadResult) -> ReleaseMode:
    """How the right to a load is given back whose result is not published."""
    if product.not_kept is not None:
        # What it replaces is old where a caller has asked for a new one; else it may live to its end.
        return ReleaseMode.WITH_VALUE if flight.force else ReleaseMode.AFTER_FAILURE
    none_any_more = product.kind == MISSING and not product.is_kept
    return ReleaseMode.WITH_VALUE if none_any_more else ReleaseMode.BACK


def _waits(flight: InFlightLoad, wanted: LoadSpec) -> bool:
    """Whether to wait for another process that loads this."""
    wanted.source.on_decided()
    return bool(flight.waiting)
