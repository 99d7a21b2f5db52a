"""Reading with a near cache: what is near at once, the rest from the server, to be near from then on."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from itertools import repeat
from typing import Final

from async_redis_cache._protocol.command import Executor
from async_redis_cache._protocol.read_commands import GET, GET_WITH_TTL, MGET_WITH_TTL

from .bulk import read_in_parts
from .near_cache import NearCache

__all__ = ["NearReads"]

_PUSH_TURNS: Final = 4
"""How often the loop, which reads a part of a flood a turn, may turn before the server is asked."""


class NearReads:
    """Reads of keys that may be near.

    Args:
        batcher: asks the server.
        near: what is near.
        has_unread: whether the link has brought what nobody has read yet.
        oversized: called for each value that is too large to be read with others.
    """

    def __init__(
        self,
        batcher: Executor,
        near: NearCache,
        has_unread: Callable[[], bool],
        oversized: Callable[[], None],
    ) -> None:
        self._batcher = batcher
        self._near = near
        self._has_unread = has_unread
        self._oversized = oversized

    async def fetch(self, key: bytes) -> bytes | None:
        """The data of one key."""
        near = self._near
        data = near.get(key)
        if data is None and near.is_behind(key):
            data = await self._get_after_push(key)
        if data is None:
            lease = near.begin_fill(key)
            if lease is None:
                data = await self._batcher.execute(GET, key, len(key) + 16)
            else:
                left = 0
                try:
                    data, left = await self._batcher.execute(GET_WITH_TTL, key, 2 * len(key) + 32)
                finally:
                    near.fill(lease, data, left)
        return data

    async def fetch_with_source(self, key: bytes) -> tuple[bytes | None, bool]:
        """The data of one key, and whether it was near."""
        data = self._near.get(key)
        if data is None:
            data = await self._get_after_push(key)
        return (await self.fetch(key), False) if data is None else (data, True)

    async def fetch_many(self, keys: Sequence[bytes], budget: float) -> list[bytes | None]:
        """The data of each key, in their order, within so many seconds."""
        near = self._near
        heard = any(map(near.is_behind, keys)) and await self._process_pushes()
        found = {key: near.get(key, pushes_processed=heard) for key in keys}
        leases = {key: near.begin_fill(key) for key, data in found.items() if data is None}
        answers: list[tuple[bytes | None, int]] = []
        try:
            answers = await read_in_parts(
                self._batcher,
                MGET_WITH_TTL,
                list(leases),
                budget=budget,
                absent=(None, 0),
                oversized=self._oversized,
            )
        finally:
            asked = zip(leases.items(), answers or repeat((None, 0)), strict=False)
            for (key, lease), (data, left) in asked:
                near.fill(lease, data, left)
                found[key] = data
        return list(found.values())

    async def _get_after_push(self, key: bytes) -> bytes | None:
        """What is near and may be given when the loop has had its turn."""
        if self._near.is_behind(key) and await self._process_pushes():
            return self._near.get(key, pushes_processed=True)
        return None

    async def _process_pushes(self) -> bool:
        """Let the loop read what the link has brought; whether that was all."""
        since = time.monotonic()
        # What is read in a turn is acted on after what was due in it, such as this.
        await asyncio.sleep(0)
        for _ in range(_PUSH_TURNS):
            await asyncio.sleep(0)
            if not self._has_unread():
                self._near.pushes_processed(since)
                return True
        return False
