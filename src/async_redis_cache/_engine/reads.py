"""Reads of keys from the server."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Coroutine, Sequence
from typing import Any, Protocol

from async_redis_cache._protocol.command import Executor
from async_redis_cache._protocol.commands import GET, MGET

from .bulk import read_in_parts

__all__ = ["PlainReads", "Reads"]


class Reads(Protocol):
    """Reads the data of keys; None for a key that does not exist."""

    def fetch(self, key: bytes) -> Awaitable[bytes | None]:
        """Return the data of one key."""
        ...

    async def fetch_with_source(self, key: bytes) -> tuple[bytes | None, bool]:
        """Return the data of one key, and whether it came from the near cache."""
        ...

    def fetch_many(
        self, keys: Sequence[bytes], budget: float
    ) -> Coroutine[Any, Any, list[bytes | None]]:
        """Return the data of each key, in the order of the keys, within some seconds."""
        ...


class PlainReads:
    """Reads without a near cache.

    Args:
        executor: sends the requests.
        oversized: called for each value that is too large to be read together with others.
    """

    def __init__(self, executor: Executor, oversized: Callable[[], None]) -> None:
        self._executor = executor
        self._oversized = oversized

    def fetch(self, key: bytes) -> Awaitable[bytes | None]:
        """See `Reads`."""
        return self._executor.execute(GET, key, len(key) + 16)

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
