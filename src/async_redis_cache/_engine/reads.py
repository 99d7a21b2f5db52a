"""Reading from the server: from the one that has all, or from replicas as far as they have it."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from typing import Any, Final, Protocol

from async_redis_cache._common.errors import CacheTimeout
from async_redis_cache._protocol.command import Executor
from async_redis_cache._protocol.read_commands import GET, MGET

from .bulk import read_in_parts

__all__ = ["PlainReads", "Reads", "ReplicaReads"]


_SHARE: Final = 0.5
"""How much of the time that a read may take a replica has."""


class Reads(Protocol):
    """Who reads keys."""

    def fetch(self, key: bytes) -> Awaitable[bytes | None]:
        """The data of one key."""
        ...

    async def fetch_with_source(self, key: bytes) -> tuple[bytes | None, bool]:
        """The data of one key, and whether it was near."""
        ...

    def fetch_many(
        self, keys: Sequence[bytes], budget: float
    ) -> Coroutine[Any, Any, list[bytes | None]]:
        """The data of each key, in their order, within so many seconds."""
        ...


class PlainReads:
    """Reads of what a server has.

    Args:
        asker: asks it.
        oversized: called for each value that is too large to be read with others.
    """

    def __init__(self, executor: Executor, oversized: Callable[[], None]) -> None:
        self._executor = executor
        self._oversized = oversized

    def fetch(self, key: bytes, budget: float | None = None) -> Awaitable[bytes | None]:
        """The data of one key, within so many seconds."""
        return self._executor.execute(GET, key, len(key) + 16, budget=budget)

    async def fetch_with_source(self, key: bytes) -> tuple[bytes | None, bool]:
        """See `Reads`."""
        return await self.fetch(key), False

    def fetch_many(
        self, keys: Sequence[bytes], budget: float
    ) -> Coroutine[Any, Any, list[bytes | None]]:
        """See `Reads`."""
        return read_in_parts(
            self._executor, MGET, keys, budget=budget, absent=None, oversized=self._oversized
        )


class ReplicaReads:
    """Reads that replicas answer. What one does not have, or does not say in time, the master is asked.

    A replica may lag behind, or hang; and while a key's slot moves, one of Redis 7.0 says that there is no
    such key.

    Args:
        replicas: asks one of them.
        master: asks it.
        budget: seconds that a read may take in all.
        oversized: see `PlainReads`.
    """

    def __init__(
        self, replicas: Executor, master: Executor, budget: float, oversized: Callable[[], None]
    ) -> None:
        # What one has that is too large, the master is asked, and it is counted there.
        self._replicas = PlainReads(replicas, lambda: None)
        self._master = PlainReads(master, oversized)
        self._budget = budget
        self._loop = asyncio.get_running_loop()

    async def fetch(self, key: bytes) -> bytes | None:
        """See `Reads`."""
        deadline = self._loop.time() + self._budget
        data = None
        with contextlib.suppress(CacheTimeout):
            data = await self._replicas.fetch(key, self._budget * _SHARE)
        if data is None:
            data = await self._master.fetch(key, deadline - self._loop.time())
        return data

    async def fetch_with_source(self, key: bytes) -> tuple[bytes | None, bool]:
        """See `Reads`."""
        return await self.fetch(key), False

    async def fetch_many(self, keys: Sequence[bytes], budget: float) -> list[bytes | None]:
        """See `Reads`."""
        deadline = self._loop.time() + budget
        found: dict[bytes, bytes | None] = dict.fromkeys(keys)
        with contextlib.suppress(CacheTimeout):
            found.update(
                zip(keys, await self._replicas.fetch_many(keys, budget * _SHARE), strict=True)
            )
        missing = [key for key, data in found.items() if data is None]
        if missing:
            more = await self._master.fetch_many(missing, deadline - self._loop.time())
            found.update(zip(missing, more, strict=True))
        return [found[key] for key in keys]
