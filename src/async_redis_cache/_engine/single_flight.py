"""Single-flight: concurrent loads of a key share one load, and processes share it through a lease.

A load runs in a task of its own that no caller owns: callers hold futures, so any of them can be cancelled
without harm to the others. When the last caller is cancelled, the load is cancelled too, unless it was
started as a background refresh or serves later callers. Its result is published only while its lease is held
(see `load_lease`), and is returned to its callers in any case.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Collection, Iterable
from contextvars import Context, copy_context
from functools import partial
from math import inf
from typing import Any, Final

from async_redis_cache._common.errors import (
    SERVER_FAILURES,
    CacheError,
    CacheStateError,
    CacheTimeout,
)
from async_redis_cache._common.failures import Failure
from async_redis_cache._common.outcomes import (
    CallerLeftError,
    CapturedError,
    capture,
    load_cancelled,
    outcome_of,
)
from async_redis_cache._common.tasks import OwnedTasks
from async_redis_cache._protocol.lease_scripts import ReleaseMode
from async_redis_cache._protocol.record import MISSING

from .in_flight_load import InFlightLoad, Outcome, current_load, loading_as, refuse_cycle
from .load_lease import LeaseContext, LoadLease
from .load_source import LoadResult, LoadSpec, StoredValue

__all__ = ["SingleFlight"]

_MICROSECONDS: Final = 1_000_000

_TOO_LONG: Final = Failure(
    CacheTimeout, "LOAD_TIMEOUT", "the load took longer than its hard_timeout"
)
_CLOSED: Final = Failure(CacheStateError, "NOT_OPENED", "the cache was closed")


class SingleFlight:
    """The loads in flight in this process.

    Args:
        leases: the settings of load leases.
        add_pending: records keys whose write has failed, so that their old values are not read again.
        background_failed: called with the name of the loader and the type or code of the error, when a load
            fails whose error may reach no caller.
    """

    def __init__(
        self,
        leases: LeaseContext,
        add_pending: Callable[[Iterable[bytes], CacheError], None],
        background_failed: Callable[[str, str], None] = lambda _function, _error: None,
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._leases = leases
        self._add_pending = add_pending
        self._background_failed = background_failed
        self._in_flight: dict[bytes, InFlightLoad] = {}
        """The loads that new callers can join."""
        self._running: set[InFlightLoad] = set()
        self._tasks = OwnedTasks()

    async def load(
        self, key: bytes, spec: LoadSpec, patience: float | None = None
    ) -> LoadResult | StoredValue | None:
        """Join the load of a key, or start one; return its outcome.

        Args:
            key: the key to load.
            spec: how to load.
            patience: seconds to wait; the load then continues without this caller. None for no limit.

        Returns:
            The result of the loader, or data that another process has stored; None after `patience`.

        Raises:
            CacheTimeout: LOAD_TIMEOUT.
            CacheLoadError: LOAD_CANCELLED, LOAD_CYCLE.
            BaseException: raised by the loader.
        """
        outcome = await self._outcome(key, spec, patience)
        if isinstance(outcome, CapturedError):
            raise outcome.error()
        return outcome

    async def _outcome(self, key: bytes, spec: LoadSpec, patience: float | None) -> Outcome:
        try:
            refuse_cycle((id(self), key))
        except CacheError:
            spec.source.on_decided()
            raise
        began = self._loop.time()
        load = self._in_flight.get(key)
        if load is None or spec.force or not load.serves(spec):
            # With an eager task factory, starting it sends its first request.
            return await self._wait_for(key, self._start(key, spec), patience)
        spec.source.on_decided()
        requests = load.lease.requests
        outcome = await self._wait_for(key, load, patience)
        if not _has_lost_its_caller(outcome) and (
            outcome is None or isinstance(outcome, CapturedError) or requests < load.serves_below
        ):
            return outcome
        while True:
            # Any load that has begun since is joined, except a background refresh: then there is a value,
            # which acquiring the lease finds. Only the rest of the time is left for it.
            load = self._in_flight.get(key)
            waited = self._loop.time() - began
            is_own = load is None or load.is_background
            if load is None or load.is_background:
                since = None if spec.since is None else spec.since + waited
                load = self._start(key, spec._replace(since=since))
            remaining = None if patience is None else patience - waited
            outcome = await self._wait_for(key, load, remaining, spec.hard_timeout - waited)
            # A load that ended because its own caller left has to be started again by another.
            if is_own or not _has_lost_its_caller(outcome):
                return outcome

    async def _wait_for(
        self, key: bytes, load: InFlightLoad, patience: float | None, timeout: float = inf
    ) -> Outcome:
        """Wait for a load; return None after `patience`.

        After `timeout` seconds the outcome is a captured LOAD_TIMEOUT.
        """
        future = self._loop.create_future()
        load.waiting[future] = current_load()
        limit = (
            None
            if timeout == inf
            else self._loop.call_later(timeout, _time_out, future, context=Context())
        )
        try:
            # Again: with an eager task factory the loader has begun, and made requests, before any caller waited.
            refuse_cycle(load.node.key)
            if patience is not None:
                load.detached = True
                await asyncio.wait((future,), timeout=patience)
                if not future.done():
                    return None
            outcome: Outcome = await future
        finally:
            if limit is not None:
                limit.cancel()
            del load.waiting[future]
            if not (load.waiting or load.detached or load.finished):
                self._forget(key, load)
                load.cancel()
        return outcome

    def refresh_in_background(self, key: bytes, spec: LoadSpec) -> None:
        """Start a load that no caller waits for, unless the key is being loaded."""
        if key in self._in_flight:
            spec.source.on_decided()
        else:
            self._start(key, spec, detached=True)

    def supersede(self, keys: Iterable[bytes]) -> None:
        """Invalidate the loads of keys that this process is changing: later callers start new ones."""
        if self._in_flight:
            for key in keys:
                load = self._in_flight.pop(key, None)
                if load is not None:
                    load.invalidated = True

    def supersede_prefix(self, prefix: bytes) -> None:
        """Invalidate the loads of keys with a prefix."""
        self.supersede([key for key in self._in_flight if key.startswith(prefix)])

    def supersede_all(self) -> None:
        """Invalidate all loads, as every key is being changed."""
        self.supersede(tuple(self._in_flight))

    def detach_all(self) -> None:
        """Let no caller join the loads in flight: any key may have changed, which publishing finds out."""
        self._in_flight.clear()

    def supersede_tags(self, tags: Collection[bytes]) -> None:
        """Invalidate the loads of values with any of these tags, which this process is invalidating."""
        for key, load in tuple(self._in_flight.items()):
            if not load.tags.isdisjoint(tags):
                self.supersede((key,))
                if load.holds_lease:
                    # Later loads need not wait until it ends.
                    load.lease.release(_unpublished_mode(load))
            elif load.source.may_change_tags():
                # Its tags are not known yet: publishing finds out whether they are still valid.
                self._forget(key, load)

    def stop(self) -> None:
        """Cancel every load; their callers get NOT_OPENED."""
        for load in self._running:
            load.abort(_CLOSED)
        self._tasks.cancel()

    async def stopped(self) -> None:
        """Wait until all loads have ended."""
        await self._tasks.wait()

    def _start(self, key: bytes, spec: LoadSpec, *, detached: bool = False) -> InFlightLoad:
        since = self._loop.time() if spec.since is None else spec.since
        lease = LoadLease(key, self._leases, since)
        load = InFlightLoad((id(self), key), lease, spec, detached=detached)
        self._in_flight[key] = load
        load.task = task = self._tasks.spawn(self._run(key, load, spec), copy_context())
        self._running.add(load)
        limit = self._loop.call_later(spec.hard_timeout, self._expire, key, load, context=Context())

        def end(task: asyncio.Task[Outcome]) -> None:
            limit.cancel()
            spec.source.on_decided()
            self._running.discard(load)
            load.finished = load.node.ended = True
            del load.task
            self._forget(key, load)
            # A load that this cache has cancelled has no callers left, or they have got their errors.
            outcome = outcome_of(task)
            if load.detached:
                self._report_failure(load, outcome)
            for future in load.waiting:
                if not future.done():
                    future.set_result(outcome)

        task.add_done_callback(end)
        return load

    def _report_failure(self, load: InFlightLoad, outcome: Outcome) -> None:
        """Report a failure that may reach no caller."""
        if load.expired:
            self._background_failed(load.source.loader_name(), _TOO_LONG.code)
        elif isinstance(outcome, CapturedError) and not (
            load.cancelled or _has_lost_its_caller(outcome)
        ):
            self._background_failed(load.source.loader_name(), outcome.kind.__name__)

    def _expire(self, key: bytes, load: InFlightLoad) -> None:
        self._forget(key, load)
        load.expired = True
        load.abort(_TOO_LONG)

    def _forget(self, key: bytes, load: InFlightLoad) -> None:
        """Let no further caller join a load."""
        if self._in_flight.get(key) is load:
            del self._in_flight[key]

    async def _run(self, key: bytes, load: InFlightLoad, spec: LoadSpec) -> Outcome:
        loading_as(load.node)
        return await capture(self._run_load(key, load, spec))

    async def _run_load(self, key: bytes, load: InFlightLoad, spec: LoadSpec) -> Outcome:
        """Acquire the lease, call the loader, publish its result."""
        lease = load.lease
        refusal: CacheError | None = None
        try:
            if spec.read is not None:
                acquired = await lease.acquire(
                    spec.read, spec.source, partial(_waits, load), force=spec.force
                )
                if acquired is False:
                    # Another process loads, and no caller here waits for it.
                    self._forget(key, load)
                    return None
                # The stored value, or the tags of the result, may be invalid for callers that join later.
                load.serves_below = lease.requests
                if isinstance(acquired, StoredValue):
                    return acquired
                load.holds_lease = True
                load.source.counters.refreshes += load.is_background
        except SERVER_FAILURES as error:
            if spec.strict:
                raise
            refusal = error
        if not load.holds_lease:
            # The server is unreachable: load without a lease, once for all callers in this process.
            result = await self._call_loader(load)
            if refusal is not None:
                self._not_replaced(key, load, result, refusal)
            return result
        load.renewal = self._tasks.spawn(lease.renew())
        try:
            result = await self._call_loader(load)
        except BaseException as error:
            is_abandoned = isinstance(error, CallerLeftError) or (
                load.cancelled and not load.expired
            )
            lease.release(ReleaseMode.KEEP_VALUE if is_abandoned else ReleaseMode.AFTER_FAILURE)
            raise
        finally:
            load.renewal.cancel()
        await self._publish(key, load, result)
        return result

    async def _publish(self, key: bytes, load: InFlightLoad, result: LoadResult) -> None:
        """Store a result, or release the lease."""
        lease = load.lease
        not_replaced = partial(self._not_replaced, key, load, result)
        try:
            versions = await lease.fetch_tag_versions(result) if result.tags else b""
            if versions is not None:
                load.serves_below = lease.requests if result.tags else inf
                if (
                    result.is_kept
                    and not load.invalidated
                    and await lease.publish(result, versions)
                ):
                    return
        except CacheError as error:
            # The callers get the result all the same, and the lease expires by itself.
            not_replaced(error)
            if isinstance(error, CacheTimeout):
                # No publication is under way, so the lease need not last until it expires.
                lease.release()
            return
        load.source.counters.superseded_loads += result.is_kept
        mode = _release_mode_of(load, result)
        if mode is not ReleaseMode.REMOVE_VALUE:
            lease.release(mode)
            return
        removal = lease.release(mode, not_replaced)
        if load.force and removal is not None:
            # Later reads must not find the value that `refresh` was to replace.
            with contextlib.suppress(CacheError):
                await asyncio.shield(removal)

    def _not_replaced(
        self, key: bytes, load: InFlightLoad, result: LoadResult, error: CacheError
    ) -> None:
        """Invalidate the stored value of a `refresh` whose result could not be stored.

        Other loads found no value, or a stale one, which may be read until its stale timeout ends.
        """
        if (
            load.force
            and not load.invalidated
            and (result.is_kept or result.kind == MISSING or result.uncacheable)
        ):
            self._add_pending((key,), error)

    async def _call_loader(self, load: InFlightLoad) -> LoadResult:
        """Call the loader, count and time it.

        Raises:
            CacheLoadError: LOAD_CANCELLED, the loader was cancelled by something other than this cache.
            BaseException: raised by the loader.
        """
        counters = load.source.counters
        counters.loads += 1
        began = self._loop.time()
        try:
            result = await load.source.call_loader()
        except BaseException as error:
            if not isinstance(error, asyncio.CancelledError):
                counters.load_failures += 1
            elif not load.cancelled:
                counters.load_failures += 1
                raise load_cancelled() from error
            raise
        finally:
            # Tasks that the loader has started and not awaited may request the key from now on.
            load.node.ended = True
        duration = self._loop.time() - began - load.source.idle_time()
        # The time of the loader does not count against the deadline of the requests.
        load.lease.since += duration
        return result._replace(load_duration=int(duration * _MICROSECONDS))


def _time_out(future: asyncio.Future[Any]) -> None:
    if not future.done():
        future.set_result(CapturedError(_TOO_LONG.error()))


def _has_lost_its_caller(outcome: Outcome) -> bool:
    """Return whether a load ended because the thread of its caller was interrupted: the next one may succeed."""
    return isinstance(outcome, CapturedError) and outcome.kind is CallerLeftError


def _release_mode_of(load: InFlightLoad, result: LoadResult) -> ReleaseMode:
    """Return how to release the lease of a load whose result is not published."""
    if result.uncacheable is not None:
        # `refresh` removes the value that it could not replace; after other loads it stays until it expires.
        return ReleaseMode.REMOVE_VALUE if load.force else ReleaseMode.AFTER_FAILURE
    if result.is_kept:
        return _unpublished_mode(load)
    return ReleaseMode.REMOVE_VALUE if result.kind == MISSING else ReleaseMode.KEEP_VALUE


def _unpublished_mode(load: InFlightLoad) -> ReleaseMode:
    """Return how to release the lease of an invalidated load: what `refresh` was to replace is older than its result."""
    return ReleaseMode.REMOVE_VALUE if load.force else ReleaseMode.KEEP_VALUE


def _waits(load: InFlightLoad) -> bool:
    """Return whether to wait for another process that loads the key: whether a caller waits here."""
    load.source.on_decided()
    return bool(load.waiting)
