"""Pending invalidations: the keys of failed writes, to be removed from the server.

Whether the server was unreachable, did not reply, or refused the write (NOREPLICAS, READONLY, MISCONF, OOM), it still
holds the value that the write should have replaced or removed. So the keys are pending invalidation: they are removed
as soon as the server accepts that, and a read of a pending key removes it first and returns nothing. A superfluous
removal costs a miss, even where another process has stored a new value meanwhile.

Pending invalidations are lost when the process ends, and other processes do not see them. So the write raises its error
all the same, unless `fail_open` is `always`: then a call reports success only if its keys are pending.
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

_MAX_KEYS: Final = 10_000
"""Keys that may be pending; of more, the latest are kept."""
_BATCH_KEYS: Final = 256
"""Keys that are removed at once in the background."""
_FIRST_PAUSE: Final = 0.05
_LONGEST_PAUSE: Final = 0.5
"""Seconds between two attempts."""
_WRITE_FAILURES: Final = (
    CacheUnavailable,
    CacheTimeout,
    CacheOutcomeUnknown,
    CacheOverloaded,
    CacheLoginError,
    CacheServerError,
)
_WRONG_TYPE: Final = "WRONGTYPE"
"""The key holds another program's data: there is no old value of this cache to be read."""
_CLOSED: Final = Failure(CacheStateError, "NOT_OPENED", "the cache was closed")


def is_pending_failure(failure: CacheError) -> bool:
    """Return whether the keys of a write that fails with this error become pending.

    Not after errors of the caller, nor without permission: the removal would be refused as well.
    """
    return isinstance(failure, _WRITE_FAILURES) and failure.code != _WRONG_TYPE


class PendingInvalidations:
    """Keys whose values must not be returned before the keys were removed.

    A key is not written while it is being removed: the removal could be executed after the write. While it is being
    written, it stays pending: another caller must not read the value that the write replaces.

    Args:
        remove: removes keys; returns the error of each key that was not removed.
        counters: count the pending keys and those that were dropped.
        random: returns numbers from 0 to 1.
        health: down while keys are pending.
        dropped: called when keys are dropped, because there are too many or the cache is closed.
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
        self.keys: Final[dict[bytes, object]] = {}
        """The pending keys, each with its failed write: another may fail during the flush after the first."""
        self.flushes: dict[bytes, asyncio.Task[Mapping[bytes, CacheError]]] = {}
        """By key, its removal in flight."""
        self._writes: dict[bytes, set[asyncio.Future[None]]] = {}
        """By pending key, the futures that end with its writes in flight."""
        self._refused: set[bytes] = set()
        """Keys that could not be removed the last time: the others are tried first."""
        self._flushing: asyncio.Task[None] | None = None
        self._tasks = OwnedTasks()
        self._stopped = False

    def add(self, keys: Iterable[bytes], failure: CacheError) -> None:
        """Make the keys of a failed write pending, unless its error has no need of that."""
        if self._stopped or not is_pending_failure(failure):
            return
        self._add(dict.fromkeys(keys, object()))
        self._health.down(failure.code)

    @contextmanager
    def writing(self, keys: Iterable[bytes]) -> Generator[None]:
        """Keep keys from being removed while they are written; after a success they are no longer pending.

        Until then they stay pending, since the write may fail as well.
        """
        pending = {key: self.keys[key] for key in keys if key in self.keys}
        ended = self._loop.create_future()
        for key in pending:
            self._writes.setdefault(key, set()).add(ended)
        try:
            yield
            for key, failed_write in pending.items():
                if self.keys.get(key) is failed_write:
                    del self.keys[key]
            self._count()
        finally:
            for key in pending:
                self._writes[key].discard(ended)
                if not self._writes[key]:
                    del self._writes[key]
            ended.set_result(None)

    def _add(self, failed_writes: Mapping[bytes, object]) -> None:
        for key, failed_write in failed_writes.items():
            # As the latest.
            self.keys.pop(key, None)
            self.keys[key] = failed_write
        self._drop(max(0, len(self.keys) - _MAX_KEYS))
        self._counters.pending_invalidations = len(self.keys)
        if self._flushing is None:
            self._flushing = self._tasks.spawn(self._flush_until_done())

    async def wait_for_flush(self, keys: Sequence[bytes], budget: float) -> None:
        """Wait until none of these keys is being removed.

        Raises:
            CacheTimeout: TIMEOUT, after `budget` seconds.
        """
        deadline = self._loop.time() + budget
        # A caller that resumed earlier may have started another removal.
        while removals := self._flushes_of(keys):
            await _wait_for(removals, deadline - self._loop.time())

    async def flush(self, keys: Sequence[bytes], budget: float) -> None:
        """Remove those keys that are pending, within `budget` seconds. Concurrent callers share a removal.

        Raises:
            CacheError: a key was not removed, so its value cannot be read.
        """
        deadline = self._loop.time() + budget
        # The values of writes in flight must not be removed. Writes that begin later are not waited for.
        await _wait_for({end for key in keys for end in self._writes.get(key, ())}, budget)
        pending = [key for key in keys if key in self.keys and key not in self.flushes]
        if pending:
            self._flush_keys(pending)
        removals = {key: self.flushes[key] for key in keys if key in self.flushes}
        await _wait_for({*removals.values()}, deadline - self._loop.time())
        for key, removal in removals.items():
            if removal.cancelled():
                raise _CLOSED.error()
            failure = removal.result().get(key)
            if isinstance(failure, CacheOutcomeUnknown):
                # The caller is a read, which has no unknown outcome.
                raise LOST.error()
            if failure is not None:
                # A new error for each caller: it carries the trace id of its call.
                raise type(failure)(failure.code, failure.message)

    def stop(self) -> None:
        """Drop all pending keys, and add none from now on."""
        self._stopped = True
        self._drop(len(self.keys))
        self._counters.pending_invalidations = 0
        self._tasks.cancel()

    async def stopped(self) -> None:
        """Wait until its tasks have ended."""
        await self._tasks.wait()

    def _drop(self, count: int) -> None:
        """Drop the earliest keys."""
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
        """Start to remove keys, none of which is being removed."""
        removal = self._tasks.spawn(self._remove_keys(keys, [self.keys[key] for key in keys]))
        self.flushes.update(dict.fromkeys(keys, removal))

        def end(_: object) -> None:
            for key in keys:
                del self.flushes[key]
            if not removal.cancelled():
                removal.exception()  # Retrieved here: there may be no caller left to retrieve it.

        removal.add_done_callback(end)
        return removal

    async def _remove_keys(
        self, keys: Sequence[bytes], failed_writes: Sequence[object]
    ) -> Mapping[bytes, CacheError]:
        """Remove keys; return the error of each key that was not removed."""
        failures = await self._remove(keys)
        for key, failed_write in zip(keys, failed_writes, strict=True):
            if key not in failures and self.keys.get(key) is failed_write:
                del self.keys[key]
        self._count()
        return failures

    def _next_batch(self) -> list[bytes]:
        """Return keys to remove next. A server that refuses its keys does not hold up the keys of others."""
        pending = [key for key in self.keys if key not in self.flushes and key not in self._writes]
        untried = [key for key in pending if key not in self._refused]
        if not untried:
            self._refused.clear()
        return (untried or pending)[:_BATCH_KEYS]

    async def _flush_until_done(self) -> None:
        backoff = Backoff(_FIRST_PAUSE, _LONGEST_PAUSE, random=self._random)
        try:
            while self.keys:
                await asyncio.sleep(backoff.next_pause())
                batch = self._next_batch()
                if batch:
                    failures = await self._flush_keys(batch)
                    self._refused.update(failures)
                    if len(failures) < len(batch):
                        backoff.reset()
        finally:
            self._refused.clear()
            self._flushing = None


async def _wait_for(futures: set[asyncio.Future[Any]], budget: float) -> None:
    """Wait until the futures are done.

    Raises:
        CacheTimeout: TIMEOUT, after `budget` seconds.
    """
    if futures:
        _, pending = await asyncio.wait(futures, timeout=budget)
        if pending:
            raise TIMED_OUT.error()
