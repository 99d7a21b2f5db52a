"""A server crashes and restarts under load."""

from __future__ import annotations

import asyncio
from collections import Counter
from contextlib import suppress
from random import Random
from typing import Any

import pytest

from async_redis_cache import AsyncRedisCache, CacheError
from harness import Server, StartServer, await_until
from harness.figures import beside_limit, counts, in_time, report
from harness.loop_lag import MachineLag, Stopwatch, measured
from harness.run_length import scaled

RESTARTS = scaled(4, 20)
TASKS = 200
LIMIT = 5.0
GRACE_SECONDS = 0.050
RECOVERY_SECONDS = 1.0
CONNECTIONS = 4
THINKING_SECONDS = 0.010


class Keeper:
    """A task with a key of its own, who knows what may stand there."""

    def __init__(self, cache: AsyncRedisCache, key: str, watch: Stopwatch) -> None:
        self.wrong: list[object] = []
        self.codes: Counter[str] = Counter()
        self.served_at = 0.0
        self.closed = False
        self._cache = cache
        self._key = key
        self._watch = watch
        self._loop = asyncio.get_running_loop()
        self._stored = self._acknowledged = 0
        self._random = Random(key)

    async def run(self) -> None:
        while not self.closed:
            self._stored += 1
            value = [self._key, self._stored]
            if await self._ask(self._cache.store(None, self._key, value)) == value:
                self._acknowledged = self._stored
            found = await self._ask(self._cache.retrieve(None, self._key))
            # Nothing, where the crash came between; otherwise nothing older than acknowledged.
            if found is not None and not self._can_be(found):
                self.wrong.append((found, self._key, self._acknowledged, self._stored))
            # Time to think, or all would fall into step and share one exchange for ever.
            await asyncio.sleep(self._random.uniform(0, THINKING_SECONDS))

    def _can_be(self, found: Any) -> bool:
        key, number = found
        return bool(key == self._key and self._acknowledged <= number <= self._stored)

    async def _ask(self, call: Any) -> Any:
        answer = None
        with self._watch.timed():
            try:
                answer = await call
                self.codes["OK"] += 1
                self.served_at = self._loop.time()
            except CacheError as error:
                self.codes[error.code] += 1
        return answer


async def answers(server: Server) -> float:
    """Wait until the port answers; when that was."""
    while True:
        with suppress(OSError):
            reader, writer = await asyncio.open_connection(server.host, server.port)
            try:
                writer.write(b"PING\r\n")
                if await reader.readline() == b"+PONG\r\n":
                    return asyncio.get_running_loop().time()
            finally:
                writer.close()
        await asyncio.sleep(0.002)


async def ended(keepers: list[Keeper], more: int, *, served: bool) -> None:
    """Wait until so many more calls have been served, or have failed."""

    def count() -> int:
        total = sum(keeper.codes.total() for keeper in keepers)
        well = sum(keeper.codes["OK"] for keeper in keepers)
        return well if served else total - well

    enough = count() + more
    await await_until(lambda: count() >= enough)


async def crash(server: Server, keepers: list[Keeper], rounds: int) -> None:
    """Kill it, and let everybody fail so many times."""
    await asyncio.to_thread(server.kill)
    await ended(keepers, rounds * TASKS, served=False)


async def restarted(server: Server) -> float:
    """Start it again; when its port answered."""
    answered = asyncio.ensure_future(answers(server))
    await asyncio.to_thread(server.start)
    return await answered


async def all_served(keepers: list[Keeper], since: float) -> float:
    """Wait until everybody has been served since then; when the last one was."""
    await await_until(lambda: min(keeper.served_at for keeper in keepers) > since)
    return max(keeper.served_at for keeper in keepers)


@pytest.mark.not_with("user", "tls", reason="it asks the port itself, to see when it answers")
async def test_calls_recover_after_a_restart(private_server: StartServer) -> None:
    """6. kill -9 and restart under 200 tasks: every call returns or raises a typed error within D; 0 wrong results.

    All tasks are served less than 1 s after the port answers, and each restart costs at most as
    many connections as the pool holds.
    """
    server = private_server()
    codes: Counter[str] = Counter()
    recoveries: list[float] = []
    connects: list[int] = []
    late = 0

    async def restart(lag: MachineLag) -> float:
        nonlocal late
        codes.clear()
        recoveries.clear()
        connects.clear()
        watch = Stopwatch(lag, LIMIT)
        async with AsyncRedisCache.from_url(
            server.url, command_timeout=int(LIMIT * 1000), max_connections=CONNECTIONS
        ) as cache:
            keepers = [Keeper(cache, f"key{number}", watch) for number in range(TASKS)]
            async with asyncio.TaskGroup() as group:
                for keeper in keepers:
                    group.create_task(keeper.run())
                for number in range(RESTARTS):
                    await ended(keepers, 5 * TASKS, served=True)
                    await crash(server, keepers, rounds=number % 3)
                    # Only now: until it died, the pool may have been growing.
                    before = cache.stats().connects
                    back_at = await restarted(server)
                    served_at = await all_served(keepers, since=back_at)
                    recoveries.append(served_at - back_at - lag.excuse(back_at, served_at))
                    connects.append(cache.stats().connects - before)
                for keeper in keepers:
                    keeper.closed = True
        for keeper in keepers:
            codes.update(keeper.codes)
            assert keeper.wrong == []
        late = watch.late
        return watch.latest

    def fits(latest: float) -> bool:
        return latest < GRACE_SECONDS and max(recoveries) < RECOVERY_SECONDS

    latest, _ = await measured(restart, fits)
    report(
        6,
        f"{beside_limit(latest)}, all served after (ms) "
        f"{', '.join(f'{seconds * 1000:.0f}' for seconds in recoveries)}; "
        f"connections made {connects}, {counts(codes)}",
        max(recoveries),
    )
    assert late == 0
    assert in_time(max(recoveries), RECOVERY_SECONDS)
    assert max(connects) <= CONNECTIONS
    assert codes.keys() <= {
        "OK",
        "CONNECT_FAILED",
        "CONNECTION_LOST",
        "LOADING",
        "TIMEOUT",
        "OUTCOME_UNKNOWN",
    }
