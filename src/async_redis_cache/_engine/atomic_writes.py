"""Writes that depend on what the key holds, which the server decides in one script."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable
from functools import partial
from typing import Any, Final

from async_redis_cache._common.errors import CacheServerError
from async_redis_cache._common.stats import CacheStats
from async_redis_cache._protocol.atomic_commands import (
    OVERFLOW,
    Add,
    BoundedAdd,
    BoundedIncrement,
    Increment,
)
from async_redis_cache._protocol.command import Command, Executor

from .near_cache import NearCache
from .recovery import Recovery, invalidating_near
from .single_flight import SingleFlight

__all__ = ["AtomicWrites"]

_OVERHEAD: Final = 64
"""Bytes of a request beside its key and data."""


class AtomicWrites:
    """The writes of a cache that store only under a condition.

    A write that fails does not make its key pending invalidation: it replaces no value that a reader must not see any
    more, and removing the key would reset a counter.

    Args:
        executor: sends the requests.
        index: the key of the index of a bounded cache.
        bound: the most values that the cache may have; 0 for no bound.
        on_evicted: called with the number of values that were evicted to keep the bound.
        single_flight: the loads that a write supersedes.
        near: the near cache, where there is one.
        recovery: runs the writes of keys that are pending invalidation.
        check_circuits: called with the keys of a write before a request is sent; it may raise.
        counters: count the stores.
    """

    def __init__(
        self,
        executor: Executor,
        *,
        index: bytes,
        bound: int,
        on_evicted: Callable[[int], None],
        single_flight: SingleFlight,
        near: NearCache | None,
        recovery: Recovery,
        check_circuits: Callable[[Iterable[bytes]], None],
        counters: CacheStats,
    ) -> None:
        self._executor = executor
        self._add: Command = BoundedAdd(index, bound, on_evicted) if bound else Add()
        self._increment: Command = (
            BoundedIncrement(index, bound, on_evicted) if bound else Increment()
        )
        self._single_flight = single_flight
        self._near = near
        self._recovery = recovery
        self._check_circuits = check_circuits
        self._counters = counters

    async def add(self, key: bytes, data: bytes, ttl: int) -> bool:
        """Store data with a TTL in milliseconds if the key has no value; return whether it was stored."""
        is_stored = bool(await self._write(self._add, key, ttl, data))
        self._counters.stores += is_stored
        return is_stored

    async def increment(self, key: bytes, amount: int, ttl: int) -> int:
        """Add to the integer of a key and return the result; a new one begins at 0 and has this TTL.

        Raises:
            CacheServerError: WRONGTYPE, OVERFLOW; nothing was changed.
        """
        answer = await self._write(self._increment, key, ttl, b"%d" % amount)
        if isinstance(answer, list):
            self._counters.stores += 1
            return int(answer[0])  # pyright: ignore[reportUnknownArgumentType]
        if answer == OVERFLOW:
            raise CacheServerError("OVERFLOW", "the result would exceed 64 bits")
        problem = (
            "the key holds a value other than a plain integer of 64 bits, such as one that was loaded or has tags: "
            "remove it first"
        )
        raise CacheServerError("WRONGTYPE", problem)

    async def _write(self, command: Command, key: bytes, ttl: int, data: bytes) -> Any:
        # A load that began before could otherwise hand its result to callers that come after this write.
        self._single_flight.supersede((key,))
        size = len(key) + len(data) + _OVERHEAD
        send = partial(self._send, command, (key, ttl, data), size)
        return await invalidating_near(self._near, (key,), self._recovered(key, send))

    async def _recovered(self, key: bytes, send: Callable[[float], Awaitable[Any]]) -> Any:
        if self._recovery.fails_open:
            self._check_circuits((key,))
        if self._recovery.pending_keys:
            return await self._recovery.write((key,), send)
        return await send(self._recovery.command_timeout)

    def _send(
        self, command: Command, argument: tuple[bytes, int, bytes], size: int, budget: float
    ) -> Awaitable[Any]:
        return self._executor.execute(command, argument, size, budget=budget)
