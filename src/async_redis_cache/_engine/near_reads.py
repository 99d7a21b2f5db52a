"""Reading with a near cache: what is near at once, the rest from the server, to be near from then on."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from itertools import repeat
from typing import Final

from async_redis_cache._protocol.command import Asker
from async_redis_cache._protocol.read_commands import READ, READ_MANY_WITH_LIFE, READ_WITH_LIFE

from .bulk import read_in_parts
from .near_cache import NearCache

__all__ = ["NearReads"]

_TURNS_TO_HEAR: Final = 4
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
        batcher: Asker,
        near: NearCache,
        has_unread: Callable[[], bool],
        oversized: Callable[[], None],
    ) -> None:
        self._batcher = batcher
        self._near = near
        self._has_unread = has_unread
        self._oversized = oversized

    async def one(self, key: bytes) -> bytes | None:
        """The data of one key."""
        near = self._near
        data = near.get(key)
        if data is None and near.is_behind(key):
            data = await self._heard(key)
        if data is None:
            lease = near.lease(key)
            if lease is None:
                data = await self._batcher.ask(READ, key, len(key) + 16)
            else:
                left = 0
                try:
                    data, left = await self._batcher.ask(READ_WITH_LIFE, key, 2 * len(key) + 32)
                finally:
                    near.settle(lease, data, left)
        return data

    async def where(self, key: bytes) -> tuple[bytes | None, bool]:
        """The data of one key, and whether it was near."""
        data = self._near.get(key)
        if data is None:
            data = await self._heard(key)
        return (await self.one(key), False) if data is None else (data, True)

    async def many(self, keys: Sequence[bytes], budget: float) -> list[bytes | None]:
        """The data of each key, in their order, within so many seconds."""
        near = self._near
        heard = any(map(near.is_behind, keys)) and await self._hear()
        found = {key: near.get(key, heard=heard) for key in keys}
        leases = {key: near.lease(key) for key, data in found.items() if data is None}
        answers: list[tuple[bytes | None, int]] = []
        try:
            answers = await read_in_parts(
                self._batcher,
                READ_MANY_WITH_LIFE,
                list(leases),
                budget=budget,
                absent=(None, 0),
                oversized=self._oversized,
            )
        finally:
            asked = zip(leases.items(), answers or repeat((None, 0)), strict=False)
            for (key, lease), (data, left) in asked:
                near.settle(lease, data, left)
                found[key] = data
        return list(found.values())

    async def _heard(self, key: bytes) -> bytes | None:
        """What is near and may be given when the loop has had its turn."""
        if self._near.is_behind(key) and await self._hear():
            return self._near.get(key, heard=True)
        return None

    async def _hear(self) -> bool:
        """Let the loop read what the link has brought; whether that was all."""
        since = time.monotonic()
        # What is read in a turn is acted on after what was due in it, such as this.
        await asyncio.sleep(0)
        for _ in range(_TURNS_TO_HEAR):
            await asyncio.sleep(0)
            if not self._has_unread():
                self._near.heard(since)
                return True
        return False
