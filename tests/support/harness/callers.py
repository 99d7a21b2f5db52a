"""Tasks that read in a loop, whatever their calls raise."""

from __future__ import annotations

import asyncio
from collections import Counter

from async_redis_cache import AsyncRedisCache, CacheError
from harness.loop_lag import Stopwatch

KEY, VALUE = "key", "value"
PAUSE_SECONDS = 0.001


class Customers:
    """Tasks that read one key, which holds one value, until they are stopped."""

    def __init__(self, cache: AsyncRedisCache, watch: Stopwatch, tasks: int = 50) -> None:
        self.codes: Counter[str] = Counter()
        self.served_at = [0.0] * tasks
        """When each task last got the value."""
        self._cache = cache
        self._watch = watch
        self._loop = asyncio.get_running_loop()
        self._closed = False

    def run(self, group: asyncio.TaskGroup) -> None:
        for number in range(len(self.served_at)):
            group.create_task(self._ask(number))

    def close(self) -> None:
        self._closed = True

    async def _ask(self, number: int) -> None:
        while not self._closed:
            with self._watch.timed():
                try:
                    assert await self._cache.retrieve(None, KEY) == VALUE
                    self.served_at[number] = self._loop.time()
                    self.codes["OK"] += 1
                except CacheError as error:
                    self.codes[error.code] += 1
            # A local hit does not yield to the loop.
            await asyncio.sleep(PAUSE_SECONDS)
