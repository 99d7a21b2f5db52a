"""Ten thousand invalidations at once, and a million keys: the loop keeps running, and memory is bounded."""

from __future__ import annotations

import asyncio
import gc
import json
import os
import sys
import tracemalloc
from typing import TYPE_CHECKING

import pytest

from async_redis_cache import AsyncRedisCache
from async_redis_cache._common.stats import CacheStats
from async_redis_cache._engine.near_cache import NearCache
from harness import Client, Server, await_until
from harness.figures import in_time, report
from harness.loop_lag import MachineLag, measured
from harness.near import all_news_is_in, hold, stale_entries
from harness.programs import PROGRAMS, SUPPORT, Program

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

pytestmark = pytest.mark.depends_on()

CHANGES = 10_000
STOP_SECONDS = 0.050
MIB = 1024 * 1024
DISTINCT_KEYS = 1_000_000
STEP = 100_000
FLAT_BYTES = 4 * MIB
LONGEST_SECONDS = 300.0
"""For a million keys, beside other tests on a slow machine."""


@pytest.fixture
async def cache(server: Server, key_prefix: str) -> AsyncIterator[AsyncRedisCache]:
    async with AsyncRedisCache.from_url(
        server.url,
        key_prefix=key_prefix,
        near_cache_enabled=True,
        near_cache_max_size=2 * CHANGES,
        command_timeout=20_000,
    ) as cache:
        yield cache


class Pulse:
    """How long the loop was ever stopped: what computes there, and not what the machine ran."""

    def __init__(self, lag: MachineLag) -> None:
        self.longest = 0.0
        self._lag = lag
        self._loop = asyncio.get_running_loop()
        self._last = self._loop.time()
        self._handle = self._loop.call_soon(self._beat)

    def stop(self) -> None:
        self._handle.cancel()

    def _beat(self) -> None:
        now = self._loop.time()
        stopped = now - self._last
        if stopped > self.longest:
            self.longest = max(self.longest, stopped - self._lag.excuse(self._last, now))
        self._last = now
        self._handle = self._loop.call_later(0.001, self._beat)


def _one_command(raw: Client, prefix: str) -> None:
    script = """
        for number = 0, ARGV[2] - 1 do
            redis.call("SET", ARGV[1] .. number, '"new"')
        end
    """
    raw.eval(script, 0, prefix, CHANGES)


def _pipelined(raw: Client, prefix: str) -> None:
    with raw.pipeline(transaction=False) as pipeline:
        for number in range(CHANGES):
            pipeline.set(f"{prefix}{number}", b'"new"')
        pipeline.execute()


@pytest.mark.parametrize("change", [_one_command, _pipelined])
async def test_a_burst_of_changes(
    cache: AsyncRedisCache, raw: Client, key_prefix: str, change: Callable[[Client, str], None]
) -> None:
    """20. 10,000 invalidations in one burst: none is lost, and the event loop is never blocked for 50 ms."""
    old = {f"{number}": "old" for number in range(CHANGES)}
    told: list[int] = []

    async def longest_stop(lag: MachineLag) -> float:
        await hold(cache, raw, key_prefix, old)
        flushes = cache.stats().near_flushes
        before = cache.stats().near_invalidations
        pulse = Pulse(lag)
        await asyncio.to_thread(change, raw, key_prefix)
        await await_until(lambda: cache.stats().near_entries <= 1)
        await all_news_is_in(cache, raw, key_prefix)
        pulse.stop()
        told.append(cache.stats().near_invalidations - before)
        assert cache.stats().near_flushes == flushes
        return pulse.longest

    longest, _ = await measured(longest_stop, lambda longest: longest < STOP_SECONDS)
    assert stale_entries(cache, raw) == []
    assert await cache.retrieve_many(None, old) == dict.fromkeys(old, "new")
    report(
        20,
        f"{told[-1]} invalidations: the loop was blocked for {longest * 1000:.1f} ms at most",
        longest,
    )
    # Each change, and those of the sentinel.
    assert CHANGES < told[-1] <= CHANGES + 3
    assert in_time(longest, STOP_SECONDS)


@pytest.mark.timeout(LONGEST_SECONDS + 60)
def test_more_keys_than_are_held(any_server: Server, key_prefix: str) -> None:
    """A million keys through a near cache of 10,000: memory is flat after the first 100,000."""
    server = any_server
    script = """
        for number = ARGV[2], ARGV[3] - 1 do
            redis.call("SET", ARGV[1] .. number, '"' .. string.rep("x", 100) .. '"')
        end
    """
    with server.client() as raw:
        raw.flushall()
        for start in range(0, DISTINCT_KEYS, STEP):
            raw.eval(script, 0, key_prefix, start, start + STEP)
    path = os.pathsep.join([str(SUPPORT), *filter(None, sys.path)])
    program = Program(
        [
            *(sys.executable, str(PROGRAMS / "near_filling.py")),
            *(server.url, key_prefix, str(DISTINCT_KEYS), str(STEP)),
        ],
        os.environ | {"PYTHONPATH": path, "PYTHONWARNINGS": "error"},
        patience=LONGEST_SECONDS,
    )
    try:
        ended = program.wait()
    finally:
        program.close()
        with server.client() as raw:
            raw.flushall()
    assert (ended.code, ended.errors) == (0, "")
    steps = [json.loads(line) for line in ended.lines]
    resident = [bytes_ for bytes_, _, _, _ in steps]
    report(
        20,
        f"{DISTINCT_KEYS} keys, resident MiB after each {STEP}: "
        f"{', '.join(f'{bytes_ / MIB:.1f}' for bytes_ in resident)}",
    )
    assert [found for _, _, _, found in steps] == [*range(STEP, DISTINCT_KEYS + 1, STEP)]
    assert {entries for _, _, entries, _ in steps} == {10_000}
    assert max(resident) - resident[0] <= FLAT_BYTES


@pytest.mark.parametrize("size", [10, 100, 10_000])
def test_reported_memory_is_the_memory_used(size: int) -> None:
    """`near_bytes` is within a quarter of what Python allocates, for small data and for large."""
    counters = CacheStats()
    near = NearCache(counters, max_size=10_000, max_bytes=1 << 30, max_ttl=60, clock=lambda: 1.0)
    near.connected_until(2.0)
    gc.collect()
    tracemalloc.start()
    try:
        before, _ = tracemalloc.get_traced_memory()
        for number in range(5_000):
            near.fill(
                near.begin_fill(b"prefix:key-%d" % number), b"%d" % number + b"x" * size, 1_000
            )
        gc.collect()
        taken = tracemalloc.get_traced_memory()[0] - before
    finally:
        tracemalloc.stop()
    ratio = counters.near_bytes / taken
    report(20, f"data of {size} bytes: {counters.near_bytes} told of {taken} taken, {ratio:.2f}")
    assert 0.75 < ratio < 1.25
