"""Reads and writes of keys whose last write may have failed.

A write fails while the server is unreachable, or because the server refuses it. The server then still holds the value
that the write should have replaced. This module keeps such a value from being returned: the keys are pending
invalidation (see `pending_invalidations`), and a read of one of them waits until the key is removed.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Collection, Iterable, Mapping, Sequence
from functools import partial
from typing import Final, TypeVar

from async_redis_cache._client.pipeline import PER_KEY_ERRORS
from async_redis_cache._common.errors import CacheError, CacheOverloaded, CacheServerError
from async_redis_cache._protocol.command import Command, Executor
from async_redis_cache._protocol.commands import UNLINK

from .near_cache import NearCache
from .pending_invalidations import PendingInvalidations
from .reads import Reads
from .tags import Tags

__all__ = ["PendingRemover", "RecoveringReads", "Recovery", "invalidating_near"]

T = TypeVar("T")

_NO_MEMORY: Final = "OOM"


class Recovery:
    """Runs reads and writes so that a value which a failed write should have replaced is never returned.

    Args:
        pending: the keys whose last write failed.
        check_circuits: called with the keys of every read and write before a request is sent; it may raise.
        command_timeout: seconds that a call may take.
        fails_open: whether a write that fails is reported as successful.
    """

    def __init__(
        self,
        pending: PendingInvalidations,
        check_circuits: Callable[[Iterable[bytes]], None],
        command_timeout: float,
        *,
        fails_open: bool,
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._pending = pending
        self.pending_keys: Final = pending.keys
        """The keys that are pending invalidation; while there are none, a read or a write needs no recovery."""
        self._check_circuits = check_circuits
        self.command_timeout: Final = command_timeout
        self.fails_open: Final = fails_open

    async def read(
        self, keys: Sequence[bytes], read: Callable[[], Awaitable[T]], budget: float
    ) -> tuple[T, Collection[bytes]]:
        """Read keys; return the result, and the keys whose results must not be used.

        Args:
            keys: all that are read.
            read: reads them.
            budget: seconds.

        Raises:
            CacheError: the read failed, or a pending key could not be removed.
        """
        self._check_circuits(keys)
        deadline = self._loop.time() + budget
        # Looked up before the read: a key that is removed meanwhile may have been read before that.
        pending = {key for key in keys if key in self.pending_keys}
        result = await read()
        if pending:
            # After the read, whose error says best what is wrong with the server.
            await self._pending.flush(tuple(pending), deadline - self._loop.time())
        return result, pending

    async def write(self, keys: Sequence[bytes], write: Callable[[float], Awaitable[T]]) -> T:
        """Write keys that may be pending invalidation; once that has succeeded, they are not any more.

        Args:
            keys: all that are written.
            write: writes them, within the seconds passed to it.

        Raises:
            CacheError: the write failed, or the removal of a key took too long. The caller then calls `failed`.
        """
        deadline = self._loop.time() + self.command_timeout
        await self._pending.wait_for_flush(keys, self.command_timeout)
        with self._pending.writing(keys):
            return await write(deadline - self._loop.time())

    def failed(self, keys: Iterable[bytes], failure: CacheError, *, is_raised: bool = True) -> None:
        """Make the keys of a failed write pending invalidation.

        Not when the queue was full and the caller gets that error: nothing was sent, and removals would add to
        the load.
        """
        is_raised = is_raised and not self.fails_open
        if not (is_raised and isinstance(failure, CacheOverloaded)):
            self._pending.add(keys, failure)


class RecoveringReads:
    """Reads of keys, none of which is pending invalidation when its data is returned.

    Args:
        reads: reads the other keys.
        recovery: knows the pending keys.
    """

    def __init__(self, reads: Reads, recovery: Recovery) -> None:
        self._reads = reads
        self._recovery = recovery
        self._pending_keys = recovery.pending_keys
        self._fails_open = recovery.fails_open

    def fetch(self, key: bytes) -> Awaitable[bytes | None]:
        """Return the data of one key."""
        if self._pending_keys or self._fails_open:
            return self._fetch_recovered(key)
        return self._reads.fetch(key)

    async def fetch_with_source(self, key: bytes) -> tuple[bytes | None, bool]:
        """Return the data of one key, and whether it came from the near cache."""
        if self._pending_keys or self._fails_open:
            return await self._fetch_recovered(key), False
        return await self._reads.fetch_with_source(key)

    async def fetch_many(
        self, keys: Sequence[bytes], budget: float | None = None
    ) -> list[bytes | None]:
        """Return the data of each key, in the order of the keys.

        Args:
            keys: to read.
            budget: seconds; None for `command_timeout`.
        """
        budget = self._recovery.command_timeout if budget is None else budget
        fetch = partial(self._reads.fetch_many, keys, budget)
        found, pending = await self._recovery.read(keys, fetch, budget)
        if pending:
            found = [
                None if key in pending else data for key, data in zip(keys, found, strict=True)
            ]
        return found

    async def _fetch_recovered(self, key: bytes) -> bytes | None:
        return (await self.fetch_many((key,)))[0]


class PendingRemover:
    """Removes keys that are pending invalidation.

    Args:
        executor: sends the requests.
        delete: the command that removes values.
        tags: of the cache.
        near: the near cache, where there is one.
    """

    def __init__(
        self, executor: Executor, delete: Command, tags: Tags, near: NearCache | None
    ) -> None:
        self._executor = executor
        self._delete = delete
        self._tags = tags
        self._near = near

    async def remove_pending(self, keys: Sequence[bytes]) -> Mapping[bytes, CacheError]:
        """Remove values, and invalidate tags, which loads in flight have to notice.

        Returns:
            The error of each key that was not removed: a key that the server refuses does not hold up the others.
        """
        tags = [(key,) for key in keys if self._tags.is_key(key)]
        values = [key for key in keys if not self._tags.is_key(key)]
        # Many keys a request, which takes one place in the queue: other callers need the others.
        size = self._executor.max_keys_per_request
        groups = [tuple(values[at : at + size]) for at in range(0, len(values), size)]
        return await invalidating_near(self._near, keys, self._remove_groups([*tags, *groups]))

    async def _remove_groups(
        self, groups: Sequence[tuple[bytes, ...]]
    ) -> Mapping[bytes, CacheError]:
        results = await asyncio.gather(*map(self._remove_group, groups), return_exceptions=True)
        failures: dict[bytes, CacheError] = {}
        for group, result in zip(groups, results, strict=True):
            if isinstance(result, CacheError):
                if len(group) > 1 and result.code in PER_KEY_ERRORS:
                    # The server may have refused another key of the group.
                    failures |= await self._remove_groups([(key,) for key in group])
                else:
                    failures |= dict.fromkeys(group, result)
            elif result is not None:
                raise result
        return failures

    async def _remove_group(self, keys: tuple[bytes, ...]) -> None:
        size = sum(map(len, keys)) + 16 * len(keys)
        if not self._tags.is_key(keys[0]):
            await self._executor.execute(self._delete, keys, size, keys=len(keys))
            return
        try:
            await self._tags.invalidate_keys(keys)
        except CacheServerError as error:
            if error.code == _NO_MEMORY:
                # Values with a removed tag are invalid as well. Loads in flight could not see that the tag was
                # invalidated, but they cannot publish either: so it stays pending until there is memory.
                await self._executor.execute(UNLINK, keys, size)
            raise


async def invalidating_near(
    near: NearCache | None, keys: Sequence[bytes], write: Awaitable[T]
) -> T:
    """Await a write of keys; remove their local entries before and after it.

    The server sends an invalidation too, but a little later: a caller that has awaited a write then reads it.
    """
    if near is None:
        return await write
    near.invalidate(keys)
    try:
        return await write
    finally:
        near.invalidate(keys)
