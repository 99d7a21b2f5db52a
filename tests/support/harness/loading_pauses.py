"""Pauses in a cache: before it reads, and before it requests the load lease."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from async_redis_cache._protocol.command import Command
from async_redis_cache._protocol.commands import GET, GET_WITH_TTL
from async_redis_cache._protocol.lease_scripts import LEASE

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    import pytest

    from async_redis_cache import AsyncRedisCache


async def soon(condition: Callable[[], object]) -> None:
    """Wait until it holds, without a pause: of thousands of waits, each is short."""
    async with asyncio.timeout(60):
        while not condition():  # noqa: ASYNC110  no event tells it
            await asyncio.sleep(0)


class Stop:
    """One such place."""

    def __init__(self) -> None:
        self._reached = self._left = 0
        self._opened = asyncio.Event()

    async def hold(self, question: Callable[[], Awaitable[Any]]) -> Any:
        """Ask it once that may be."""
        self._reached += 1
        try:
            await self._opened.wait()
            return await question()
        finally:
            self._left += 1

    async def reached(self, times: int) -> None:
        """Wait until so many questions have come here."""
        await soon(lambda: self._reached == times)

    async def open(self) -> None:
        """Let them pass, and wait until those that are here are answered."""
        self._opened.set()
        await soon(lambda: self._left == self._reached)


class Stops:
    """Those of one cache; closed again by `close`, for questions that come thereafter."""

    def __init__(self, cache: AsyncRedisCache, patch: pytest.MonkeyPatch) -> None:
        self.close()
        self.engine = cache._lifecycle.ready().engine
        batcher = self.engine._batcher
        ask = batcher.execute

        def held(operation: Command, *args: Any, **kwargs: Any) -> asyncio.Future[Any]:
            stop = self.reading if operation in {GET, GET_WITH_TTL} else self.asking
            if stop is self.asking and operation is not LEASE:
                return ask(operation, *args, **kwargs)
            holding = stop.hold(lambda: ask(operation, *args, **kwargs))
            return asyncio.get_running_loop().create_task(holding)

        patch.setattr(batcher, "execute", held)

    def close(self) -> None:
        """Hold up what comes from now on."""
        self.reading, self.asking = Stop(), Stop()
