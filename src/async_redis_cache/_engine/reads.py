"""Reads of keys from the server."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Coroutine, Sequence
from typing import Any, Protocol

from async_redis_cache._protocol.command import Executor
from async_redis_cache._protocol.commands import GET, MGET

from .bulk import read_in_parts

__all__ = ["PlainReads", "Reads"]


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
