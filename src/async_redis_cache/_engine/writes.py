"""Writes of keys: each supersedes the loads of its keys in flight, and invalidates their local entries."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Collection, Coroutine, Iterable, Sequence
from functools import partial
from typing import Any, Final, NamedTuple, TypeVar

from async_redis_cache._common.errors import CacheError
from async_redis_cache._protocol.command import Command, Executor, StoreItem
from async_redis_cache._protocol.commands import GETDEL, PEXPIRE, SET, UNLINK, UNLINK_COUNT
from async_redis_cache._protocol.lease_scripts import BoundedPublish, Publish
from async_redis_cache._protocol.record import with_tags
from async_redis_cache._protocol.size_limit import BoundedRemove, BoundedStore, BoundedTouch

from .bulk import execute_in_parts
from .near_cache import NearCache
from .recovery import Recovery, invalidating_near
from .single_flight import SingleFlight
from .tags import Tags

__all__ = ["WriteCommands", "Writes"]

S = TypeVar("S")
T = TypeVar("T")

_MILLISECOND: Final = 1000
"""In microseconds."""


class WriteCommands(NamedTuple):
    """The commands that write keys: those of a bounded cache keep its index as well."""

    store: Command
    get_and_delete: Command
    delete_counted: Command
    delete: Command
    touch: Command
    publish: Command

    @classmethod
    def of(cls, index: bytes, bound: int, on_evicted: Callable[[int], None]) -> WriteCommands:
        """Return the commands of a cache.

        Args:
            index: the key of the index of a bounded cache.
            bound: the most values that the cache may have; 0 for no bound.
            on_evicted: called with the number of values that were evicted to keep the bound.
        """
        if not bound:
            return cls(SET, GETDEL, UNLINK_COUNT, UNLINK, PEXPIRE, Publish())
        return cls(
            BoundedStore(index, bound, on_evicted),
            BoundedRemove(index, b"GETDEL"),
            BoundedRemove(index, b"UNLINK"),
            BoundedRemove(index, b"UNLINK", needs_answer=False),
            BoundedTouch(index),
            BoundedPublish(index, bound, on_evicted),
        )


class Writes:
    """The writes of a cache.

    A write that fails makes its keys pending invalidation.

    Args:
        executor: sends the requests.
        commands: those of the cache.
        single_flight: the loads that a write supersedes.
        near: the near cache, where there is one.
        recovery: runs the writes of keys that are pending invalidation.
        tags: of the cache.
        check_circuits: called with the keys of a write before a request is sent; it may raise.
    """

    def __init__(
        self,
        executor: Executor,
        commands: WriteCommands,
        *,
        single_flight: SingleFlight,
        near: NearCache | None,
        recovery: Recovery,
        tags: Tags,
        check_circuits: Callable[[Iterable[bytes]], None],
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._executor = executor
        self._commands = commands
        self._single_flight = single_flight
        self._near = near
        self._recovery = recovery
        self._pending_keys = recovery.pending_keys
        self._tags = tags
        self._check_circuits = check_circuits
        self._fails_open = recovery.fails_open
        self._command_timeout = recovery.command_timeout

    def store(self, key: bytes, data: bytes, ttl: int) -> Coroutine[Any, Any, None]:
        """Store one entry with a TTL in milliseconds."""
        return self._write((key,), self._send_entry, (key, data, ttl))

    async def store_many(self, entries: Sequence[StoreItem], tags: Collection[bytes] = ()) -> None:
        """Store entries, each with these tags; when it fails, some may have been stored."""
        keys = [key for key, _, _ in entries]
        await self._write(keys, partial(self._send_entries, tags), entries)

    async def delete(self, command: Command, keys: Sequence[bytes]) -> list[Any]:
        """Remove keys with a command; return its replies."""
        return await self._write(keys, partial(self._send_removals, command), keys)

    async def invalidate_tags(self, tags: Collection[bytes]) -> None:
        """Invalidate the values that have any of these tags."""
        self._single_flight.supersede_tags(tags)
        keys = self._tags.keys(tags)
        await self._write(keys, self._tags.invalidate_keys, keys)

    async def touch(self, keys: Sequence[bytes], touch: Awaitable[T]) -> T:
        """Await a change of TTLs, which supersedes nothing and needs no recovery."""
        return await invalidating_near(self._near, keys, touch)

    def failed(
        self, keys: Collection[bytes], failure: CacheError, *, is_raised: bool = True
    ) -> None:
        """Supersede the loads of the keys of a failed write, and make the keys pending invalidation.

        Args:
            keys: of a write that was given up before it began, or of a load that could not store its result.
            failure: the error.
            is_raised: whether the caller gets it.
        """
        self._single_flight.supersede(keys)
        self._recovery.failed(keys, failure, is_raised=is_raised)

    def invalidate_tags_failed(self, tags: Collection[bytes], failure: CacheError) -> None:
        """As `failed`, of an invalidation of tags that was given up before it began."""
        self._single_flight.supersede_tags(tags)
        self._recovery.failed(self._tags.keys(tags), failure)

    def invalidate_all(self) -> None:
        """Supersede the loads of all keys, which were removed, and drop all local entries."""
        self._single_flight.supersede_all()
        self.invalidate_unknown()

    def invalidate_prefix(self, prefix: bytes) -> None:
        """Supersede the loads of the keys with a prefix, which are removed, and drop their local entries."""
        self._single_flight.supersede_prefix(prefix)
        if self._near is not None:
            self._near.invalidate_prefix(prefix)

    def invalidate_unknown(self) -> None:
        """Keep callers from joining loads in flight, and drop all local entries: any key may have been removed."""
        self._single_flight.detach_all()
        if self._near is not None:
            self._near.flush()

    async def _write(
        self, keys: Sequence[bytes], send: Callable[[S, float], Awaitable[T]], argument: S
    ) -> T:
        """Write keys: every write but `touch` comes through here.

        Args:
            keys: all that are written.
            send: sends the requests for an argument, which end within some seconds.
            argument: what `send` takes.
        """
        self._single_flight.supersede(keys)
        near = self._near
        # The server sends an invalidation too, but a little later: a caller that has awaited a write then reads it.
        if near is not None:
            near.invalidate(keys)
        try:
            if self._fails_open:
                self._check_circuits(keys)
            if self._pending_keys:
                return await self._recovery.write(keys, partial(send, argument))
            return await send(argument, self._command_timeout)
        except CacheError as failure:
            # Loads that began after the write may have read the value that it should have replaced.
            self.failed(keys, failure)
            raise
        finally:
            if near is not None:
                near.invalidate(keys)

    def _send_entry(self, entry: StoreItem, budget: float) -> Awaitable[None]:
        size = len(entry[0]) + len(entry[1]) + 48
        return self._executor.execute(self._commands.store, (entry,), size, budget=budget)

    async def _send_entries(
        self, tags: Collection[bytes], entries: Sequence[StoreItem], budget: float
    ) -> None:
        deadline = self._loop.time() + budget
        if tags:
            longest = max(ttl for _, _, ttl in entries)
            current = await self._tags.fetch_versions(tags, longest, budget)
            versions, now = current.versions, current.now // _MILLISECOND
            entries = [
                (key, with_tags(data, versions, now, ttl), ttl) for key, data, ttl in entries
            ]
        remaining = deadline - self._loop.time()
        await execute_in_parts(self._executor, self._commands.store, entries, budget=remaining)

    async def _send_removals(
        self, command: Command, keys: Sequence[bytes], budget: float
    ) -> list[Any]:
        return await execute_in_parts(self._executor, command, keys, budget=budget)
