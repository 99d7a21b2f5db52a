"""Changing keys: what is near and what is being loaded gives way, and what fails is remembered."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Collection, Iterable, Mapping, Sequence
from functools import partial
from typing import Any, Final, NamedTuple, TypeVar

from async_redis_cache._client.pipeline import PER_KEY_ERRORS
from async_redis_cache._common.errors import CacheError, CacheOverloaded, CacheServerError
from async_redis_cache._protocol.command import Command, Executor, StoreItem
from async_redis_cache._protocol.commands import GETDEL, PEXPIRE, SET, UNLINK, UNLINK_COUNT
from async_redis_cache._protocol.lease_scripts import BoundedPublish, Publish
from async_redis_cache._protocol.record import with_tags
from async_redis_cache._protocol.size_limit import BoundedRemove, BoundedStore, BoundedTouch

from .bulk import execute_in_parts
from .freshness import Freshness
from .near_cache import NearCache
from .pending_invalidations import PendingInvalidations
from .single_flight import SingleFlight
from .tags import Tags

__all__ = ["WriteCommands", "Writes"]

T = TypeVar("T")

_NO_MEMORY: Final = "OOM"
_MILLISECOND: Final = 1000
"""In microseconds."""


class WriteCommands(NamedTuple):
    """How keys are changed, in a cache of its kind."""

    store: Command
    get_and_delete: Command
    delete_counted: Command
    delete: Command
    touch: Command
    publish: Command

    @classmethod
    def of(cls, index: bytes, bound: int, evicted: Callable[[int], None]) -> WriteCommands:
        """Of a cache of so many values at the most, whose keys stand in this index; 0 for no bound.

        `evicted` is called with the number of values that were evicted to keep the bound.
        """
        if not bound:
            return cls(SET, GETDEL, UNLINK_COUNT, UNLINK, PEXPIRE, Publish())
        return cls(
            BoundedStore(index, bound, evicted),
            BoundedRemove(index, b"GETDEL"),
            BoundedRemove(index, b"UNLINK"),
            BoundedRemove(index, b"UNLINK", heeded=False),
            BoundedTouch(index),
            BoundedPublish(index, bound, evicted),
        )


class Writes:
    """The changes of keys.

    Args:
        batcher: asks the server.
        verbs: how keys are changed.
        loading: the loads that a change overtakes.
        near: what is near, where that is on.
        debts: the changes that failed.
        tags: of the cache.
        freshness: judges.
        admit: called with keys before the server is asked; it may raise.
        fails_open: whether a change that fails is reported as made.
    """

    def __init__(
        self,
        batcher: Executor,
        commands: WriteCommands,
        *,
        single_flight: SingleFlight,
        near: NearCache | None,
        pending: PendingInvalidations,
        tags: Tags,
        freshness: Freshness,
        admit: Callable[[Iterable[bytes]], None],
        fails_open: bool,
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._batcher = batcher
        self._commands = commands
        self._single_flight = single_flight
        self._near = near
        self._pending = pending
        self._tags = tags
        self._freshness = freshness
        self._admit = admit
        self._fails_open = fails_open

    def store(self, key: bytes, data: bytes, life: int) -> Awaitable[None]:
        """Store one entry for so many milliseconds. When it fails, say so to `failed`."""
        if self._pending.keys:
            return self._change((key,), partial(self._stored, ((key, data, life),), ()))
        self._single_flight.supersede((key,))
        self._admit((key,))
        argument = ((key, data, life),)
        stored = self._batcher.execute(self._commands.store, argument, len(key) + len(data) + 48)
        return self._invalidating_near((key,), stored)

    def store_failed(self, key: bytes, failure: CacheError, *, is_raised: bool = True) -> None:
        """A change of this key ended so, of a kind that does not find it out itself: `store`, or a load."""
        self._single_flight.supersede((key,))
        self._remember((key,), failure, is_raised=is_raised)

    def all_failed(self, keys: Collection[bytes], failure: CacheError) -> None:
        """A change of these keys ended so before it was begun."""
        self._single_flight.supersede(keys)
        self._pending.add(keys, failure)

    def tags_failed(self, tags: Collection[bytes], failure: CacheError) -> None:
        """The invalidation of these tags ended so before it was begun."""
        self._single_flight.supersede_tags(tags)
        self._pending.add(self._tags.keys(tags), failure)

    async def store_many(self, entries: Sequence[StoreItem], tags: Collection[bytes] = ()) -> None:
        """Store all entries, each with these tags; when it fails, some may have been stored."""
        await self._change([key for key, _, _ in entries], partial(self._stored, entries, tags))

    async def remove(self, how: Command, keys: Sequence[bytes]) -> list[Any]:
        """Remove keys: the answers of the verb."""

        def removed(budget: float) -> Awaitable[list[Any]]:
            return execute_in_parts(self._batcher, how, keys, budget=budget)

        return await self._change(keys, removed)

    async def invalidate_tags(self, tags: Collection[bytes]) -> None:
        """Make invalid what bears any of these tags."""
        self._single_flight.supersede_tags(tags)
        keys = self._tags.keys(tags)
        await self._change(keys, partial(self._tags.invalidate_keys, keys))

    async def touch(self, keys: Sequence[bytes], touched: Awaitable[T]) -> T:
        """Change the lives of keys, which makes no value old: nothing is to be remembered of it."""
        return await self._invalidating_near(keys, touched)

    async def flush_pending(self, keys: Sequence[bytes]) -> Mapping[bytes, CacheError]:
        """Remove keys whose change has failed; invalidate tags, which loads have to know of.

        Gives the errors by key: one that is refused holds up no other.
        """
        tags = [(key,) for key in keys if self._tags.is_key(key)]
        values = [key for key in keys if not self._tags.is_key(key)]
        # Many keys a call, which takes one place among those that wait: others need them too.
        most = self._batcher.max_keys_per_request
        groups = [tuple(values[at : at + most]) for at in range(0, len(values), most)]
        return await self._invalidating_near(keys, self._invalidate_groups([*tags, *groups]))

    async def _invalidate_groups(
        self, groups: Sequence[tuple[bytes, ...]]
    ) -> Mapping[bytes, CacheError]:
        results = await asyncio.gather(*map(self._invalidate, groups), return_exceptions=True)
        failures: dict[bytes, CacheError] = {}
        for group, result in zip(groups, results, strict=True):
            if isinstance(result, CacheError):
                if len(group) > 1 and result.code in PER_KEY_ERRORS:
                    # It may be another's key.
                    failures |= await self._invalidate_groups([(key,) for key in group])
                else:
                    failures |= dict.fromkeys(group, result)
            elif result is not None:
                raise result
        return failures

    async def _invalidate(self, keys: tuple[bytes, ...]) -> None:
        size = sum(map(len, keys)) + 16 * len(keys)
        if not self._tags.is_key(keys[0]):
            await self._batcher.execute(self._commands.delete, keys, size, keys=len(keys))
            return
        try:
            await self._tags.invalidate_keys(keys)
        except CacheServerError as error:
            if error.code == _NO_MEMORY:
                # A tag that is gone is invalid as well. Loads that are under way could not see that it was
                # invalidated, but neither can they publish: so it stays pending until there is memory.
                await self._batcher.execute(UNLINK, keys, size)
            raise

    def invalidate_all(self) -> None:
        """Every key was."""
        self._single_flight.supersede_all()
        self.invalidate_unknown()

    def invalidate_unknown(self) -> None:
        """Some keys may have been changed, and nobody knows which."""
        self._single_flight.detach_all()
        if self._near is not None:
            self._near.flush()

    async def _stored(
        self, entries: Sequence[StoreItem], tags: Collection[bytes], budget: float
    ) -> None:
        deadline = self._loop.time() + budget
        if tags:
            longest = max(life for _, _, life in entries)
            stamp = await self._tags.fetch_versions(tags, longest, budget)
            versions, now = stamp.versions, stamp.now // _MILLISECOND
            entries = [
                (key, with_tags(data, versions, now, life), life) for key, data, life in entries
            ]
        left = deadline - self._loop.time()
        await execute_in_parts(self._batcher, self._commands.store, entries, budget=left)

    async def _change(self, keys: Sequence[bytes], change: Callable[[float], Awaitable[T]]) -> T:
        """A change of keys that is given so many seconds, and remembered when it fails."""
        since = self._loop.time()
        self._single_flight.supersede(keys)
        some_owed = bool(self._pending.keys)
        try:
            self._admit(keys)
            if not some_owed:
                return await self._invalidating_near(keys, change(self._freshness.left(since)))
            await self._pending.wait_for_flush(keys, self._freshness.left(since))
            with self._pending.writing(keys):
                return await self._invalidating_near(keys, change(self._freshness.left(since)))
        except CacheError as failure:
            # Loads that were begun since may have found what was to be replaced.
            self._single_flight.supersede(keys)
            self._remember(keys, failure)
            raise
        finally:
            if some_owed:
                self._pending.discard_done()

    def _remember(
        self, keys: Sequence[bytes], failure: CacheError, *, is_raised: bool = True
    ) -> None:
        """Let the keys of a failed change be pending invalidation.

        Not where the queue was full and the caller gets that error: nothing was sent, and removals would
        add to what is too much already.
        """
        is_raised = is_raised and not self._fails_open
        if not (is_raised and isinstance(failure, CacheOverloaded)):
            self._pending.add(keys, failure)

    def _invalidating_near(self, keys: Sequence[bytes], change: Awaitable[T]) -> Awaitable[T]:
        """A change of keys, before and after which nothing is near that it makes old.

        The server says so too, but a little later: whoever awaits a change reads it thereafter.
        """
        return change if self._near is None else _invalidating(self._near, keys, change)


async def _invalidating(near: NearCache, keys: Sequence[bytes], change: Awaitable[T]) -> T:
    near.invalidate(keys)
    try:
        return await change
    finally:
        near.invalidate(keys)
