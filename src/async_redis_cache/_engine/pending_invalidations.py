"""Changes that failed: the values that they should have replaced are not returned again.

Whether the server was unreachable, did not answer, or refused the change (NOREPLICAS, READONLY, MISCONF, OOM),
it still holds what was to be replaced or removed. So the keys are remembered as pending; they are removed
as soon as the server takes that, and whoever reads one sooner has it removed, and is given nothing. A removal
too many costs a miss, also where another process has stored a new value meanwhile.

A process that ends takes its memory along, and other processes do not know of it. So the one who made the
change is told by an error all the same, unless `fail_open` is `always`: then a call may only report success
where its change is pending.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Generator, Iterable, Mapping, Sequence
from contextlib import contextmanager
from itertools import islice
from typing import Any, Final

from async_redis_cache._common.backoff import Backoff
from async_redis_cache._common.errors import (
    CacheError,
    CacheLoginError,
    CacheOutcomeUnknown,
    CacheOverloaded,
    CacheServerError,
    CacheStateError,
    CacheTimeout,
    CacheUnavailable,
)
from async_redis_cache._common.failures import LOST, TIMED_OUT, Failure
from async_redis_cache._common.health_log import Condition
from async_redis_cache._common.stats import CacheStats
from async_redis_cache._common.tasks import OwnedTasks

__all__ = ["PendingInvalidations", "is_pending_failure"]

_MOST: Final = 10_000
"""Keys that are remembered; of more, only the latest."""
_AT_ONCE: Final = 256
_FIRST_PAUSE: Final = 0.05
_LONGEST_PAUSE: Final = 0.5
"""Seconds between two attempts."""
_NOT_MADE: Final = (
    CacheUnavailable,
    CacheTimeout,
    CacheOutcomeUnknown,
    CacheOverloaded,
    CacheLoginError,
    CacheServerError,
)
_FOREIGN: Final = "WRONGTYPE"
"""Another program's data is in the way: there is no old value of ours that could be read."""
_CLOSED: Final = Failure(CacheStateError, "NOT_OPENED", "the cache was closed")


def is_pending_failure(failure: CacheError) -> bool:
    """Whether a change that ends in this error is pending from then on.

    Errors of the caller, and a lack of permission, are not: the same removal would be refused as well.
    """
    return isinstance(failure, _NOT_MADE) and failure.code != _FOREIGN


class PendingInvalidations:
    """Keys that must not be given before they were removed.

    A key is not changed anew while it is being removed: the removal could come after that. While it is being
    changed anew, it is pending still: another caller must not read what that change is to replace.

    Args:
        remove: removes keys; gives the error of each that could not be removed.
        counters: where it is seen how many there are.
        random: numbers from 0 to 1.
        told: where it is told when there are some, and when there are none any more.
        dropped: called when some are given up, because there are too many or the cache is closed.
    """

    def __init__(
        self,
        remove: Callable[[Sequence[bytes]], Awaitable[Mapping[bytes, CacheError]]],
        counters: CacheStats,
        random: Callable[[], float],
        health: Condition,
        dropped: Callable[[], None],
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._remove = remove
        self._counters = counters
        self._random = random
        self._health = health
        self._dropped = dropped
        # By key the change that failed: another may fail while the first is made good.
        self.keys: dict[bytes, object] = {}
        self.flushes: dict[bytes, asyncio.Task[Mapping[bytes, CacheError]]] = {}
        """By key its removal that is under way."""
        self._changes: dict[bytes, set[asyncio.Future[None]]] = {}
        """By key that is pending the ends of the changes of it that are under way."""
        self._tried: set[bytes] = set()
        """Those that cannot be removed for now: the others go first."""
        self._flushing: asyncio.Task[None] | None = None
        self._tasks = OwnedTasks()
        self._stopped = False

    def add(self, keys: Iterable[bytes], failure: CacheError) -> None:
        """A change of these keys has failed."""
        if self._stopped or not is_pending_failure(failure):
            return
        self._add(dict.fromkeys(keys, object()))
        self._health.down(failure.code)

    @contextmanager
    def writing(self, keys: Iterable[bytes]) -> Generator[None]:
        """While these keys are changed anew: those that were pending are not, once that has succeeded.

        Until then they are pending still, as the change may fail as well. They are not removed meanwhile.
        """
        pending = {key: self.keys[key] for key in keys if key in self.keys}
        ended = self._loop.create_future()
        for key in pending:
            self._changes.setdefault(key, set()).add(ended)
        try:
            yield
            for key, change in pending.items():
                if self.keys.get(key) is change:
                    del self.keys[key]
            self._count()
        finally:
            for key in pending:
                self._changes[key].discard(ended)
                if not self._changes[key]:
                    del self._changes[key]
            ended.set_result(None)

    def _add(self, changes: Mapping[bytes, object]) -> None:
        for key, change in changes.items():
            self.keys.pop(key, None)
            self.keys[key] = change
        self._drop(max(0, len(self.keys) - _MOST))
        self._counters.pending_invalidations = len(self.keys)
        if self._flushing is None:
            self._flushing = self._tasks.spawn(self._flush_until_done())

    async def wait_for_flush(self, keys: Sequence[bytes], budget: float) -> None:
        """Wait until none of these keys is being removed, for so many seconds at the most.

        Raises:
            CacheTimeout: TIMEOUT.
        """
        deadline = self._loop.time() + budget
        # Whoever woke up sooner may have begun another.
        while payments := self._flushes_of(keys):
            await _ended(payments, deadline - self._loop.time())

    async def flush(self, keys: Sequence[bytes], budget: float) -> None:
        """Remove those that are owed, within so many seconds. Who wants the same waits together.

        Raises:
            CacheError: the server does not take it, so that they cannot be given.
        """
        deadline = self._loop.time() + budget
        # What a change under way has stored is not to be removed. Those that begin later are not waited for.
        await _ended({end for key in keys for end in self._changes.get(key, ())}, budget)
        owed = [key for key in keys if key in self.keys and key not in self.flushes]
        if owed:
            self._flush_keys(owed)
        removals = {key: self.flushes[key] for key in keys if key in self.flushes}
        await _ended({*removals.values()}, deadline - self._loop.time())
        for key, payment in removals.items():
            if payment.cancelled():
                raise _CLOSED.error()
            failure = payment.result().get(key)
            if isinstance(failure, CacheOutcomeUnknown):
                # A read has no outcome that could be unknown.
                raise LOST.error()
            if failure is not None:
                # One for each reader: an error bears the trace id of its call.
                raise type(failure)(failure.code, failure.message)

    def stop(self) -> None:
        """Try no more."""
        self._stopped = True
        self._drop(len(self.keys))
        self._counters.pending_invalidations = 0
        self._tasks.cancel()

    async def stopped(self) -> None:
        """Wait until nothing is left of it."""
        await self._tasks.wait()

    def _drop(self, count: int) -> None:
        """Give up the earliest."""
        for key in tuple(islice(self.keys, count)):
            del self.keys[key]
        if count:
            self._counters.invalidations_dropped += count
            self._dropped()

    def _count(self) -> None:
        """Update the counter, and the health log once no key is pending any more."""
        self._counters.pending_invalidations = len(self.keys)
        if not self.keys:
            self._health.up()

    def _flushes_of(self, keys: Iterable[bytes]) -> set[asyncio.Future[Any]]:
        return {self.flushes[key] for key in keys if key in self.flushes}

    def _flush_keys(self, keys: Sequence[bytes]) -> asyncio.Task[Mapping[bytes, CacheError]]:
        """Remove keys none of which is being removed."""
        payment = self._tasks.spawn(self._removed(keys, [self.keys[key] for key in keys]))
        self.flushes.update(dict.fromkeys(keys, payment))

        def end(_: object) -> None:
            for key in keys:
                del self.flushes[key]
            if not payment.cancelled():
                payment.exception()  # Seen, though nobody may be left to see it.

        payment.add_done_callback(end)
        return payment

    async def _removed(
        self, keys: Sequence[bytes], changes: Sequence[object]
    ) -> Mapping[bytes, CacheError]:
        """Remove keys: the error of each that could not be removed."""
        failures = await self._remove(keys)
        for key, change in zip(keys, changes, strict=True):
            if key not in failures and self.keys.get(key) is change:
                del self.keys[key]
        self._count()
        return failures

    def _next_batch(self) -> list[bytes]:
        """Some that were not tried since all were: a server that refuses its keys holds up no other's."""
        pending = [key for key in self.keys if key not in self.flushes and key not in self._changes]
        untried = [key for key in pending if key not in self._tried]
        if not untried:
            self._tried.clear()
        return (untried or pending)[:_AT_ONCE]

    async def _flush_until_done(self) -> None:
        backoff = Backoff(_FIRST_PAUSE, _LONGEST_PAUSE, random=self._random)
        try:
            while self.keys:
                await asyncio.sleep(backoff.next_pause())
                owed = self._next_batch()
                if owed:
                    failures = await self._flush_keys(owed)
                    self._tried.update(failures)
                    if len(failures) < len(owed):
                        backoff.reset()
        finally:
            self._tried.clear()
            self._flushing = None


async def _ended(futures: set[asyncio.Future[Any]], budget: float) -> None:
    """Wait for their ends, for so many seconds at the most.

    Raises:
        CacheTimeout: TIMEOUT.
    """
    if futures:
        _, pending = await asyncio.wait(futures, timeout=budget)
        if pending:
            raise TIMED_OUT.error()
