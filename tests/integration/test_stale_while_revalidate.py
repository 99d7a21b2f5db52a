"""Stale values are returned by loading calls during a refresh or when the origin fails, and by no other call."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import pytest

from async_redis_cache import AsyncRedisCache, CacheTimeout, LoadOptions
from harness import await_until
from harness.figures import report
from harness.loading import LEASE
from harness.loading_origin import LIFE, STALE, Origin, becomes, gone, made_stale
from harness.loop_lag import Guard
from harness.run_length import scaled

pytest_plugins = ["loading_fixtures"]
pytestmark = pytest.mark.depends_on("storage", "near")


async def test_stale_value_is_returned_by_loading_calls_only(
    one: AsyncRedisCache, other: AsyncRedisCache
) -> None:
    """At once, and while one loads it anew; no other method sees it."""
    origin = Origin()
    await made_stale(one, origin)
    for each in (one, other):
        assert await each.retrieve(None, "key") is None
        assert await each.retrieve_many(None, ["key"]) == {}
        assert await each.contains(None, "key") is False
        assert await each.touch(None, "key", 60_000) is False
        assert await each.time_to_live(None, "key") is None
        assert (await each.retrieve_entry(None, "key")).status == "missing"
    origin.may_end.clear()
    for each in (one, other, one, other):
        entry = await each.retrieve_or_load_entry(None, "key", origin.load, 60_000, **STALE)
        assert (entry.value, entry.status) == (1, "stale")
        assert entry.age is not None
        assert entry.age >= LIFE
        assert entry.remaining is not None
        assert -60_000 < entry.remaining <= 0
    await await_until(lambda: origin.loads == 2)
    origin.may_end.set()
    await becomes(other, 2)
    assert origin.loads == 2
    assert one.stats().stale_hits + other.stats().stale_hits == 4
    assert one.stats().unreadable == other.stats().unreadable == 0
    assert await one.remove(None, "key") == 2


async def test_remove_does_not_return_a_stale_value(one: AsyncRedisCache) -> None:
    """It is removed all the same."""
    origin = Origin()
    await made_stale(one, origin)
    assert await one.remove(None, "key") is None
    assert await one.retrieve_or_load(None, "key", origin.load, LIFE, **STALE) == 2


async def test_stale_timeout_of_the_call_bounds_staleness(
    one: AsyncRedisCache, other: AsyncRedisCache
) -> None:
    """`stale_timeout` applies to each call separately: without one, no stale value."""
    origin = Origin()
    await made_stale(one, origin)
    assert await other.retrieve_or_load(None, "key", origin.load, LIFE) == 2
    await gone(one)
    assert await one.retrieve_or_load(None, "key", origin.load, LIFE, stale_timeout=1) == 3


async def test_soft_timeout(one: AsyncRedisCache, other: AsyncRedisCache) -> None:
    """A caller that accepts a stale value waits this long for the new one, whichever process loads it."""
    origin = Origin()
    await made_stale(one, origin)
    patient: LoadOptions = {**STALE, "soft_timeout": 20_000}
    impatient: LoadOptions = {**STALE, "soft_timeout": 30}
    origin.may_end.clear()
    began = time.monotonic()
    entry = await one.retrieve_or_load_entry(None, "key", origin.load, 60_000, **impatient)
    assert (entry.value, entry.status) == (1, "stale")
    assert time.monotonic() - began > 0.028  # uvloop rounds to milliseconds.
    calls = [
        asyncio.create_task(
            each.retrieve_or_load_entry(None, "key", origin.load, 60_000, **patient)
        )
        for each in (one, other)
    ]
    assert (await asyncio.wait(calls, timeout=0.05))[0] == set()
    origin.may_end.set()
    assert [(entry.value, entry.status) for entry in await asyncio.gather(*calls)] == [
        (2, "loaded"),
        (2, "hit"),
    ]
    assert origin.loads == 2


@pytest.mark.parametrize("lease", [400])
@pytest.mark.parametrize("soft", [0, 20_000])
async def test_stale_value_is_returned_when_the_origin_fails(
    one: AsyncRedisCache, other: AsyncRedisCache, lease: int, soft: int
) -> None:
    """Stale values and no errors, and a load in a lease's time."""
    origin = Origin()
    options: LoadOptions = {"stale_timeout": 600_000, "soft_timeout": soft}
    await one.retrieve_or_load(None, "key", origin.load, LIFE, **options)
    await gone(one)
    origin.failure = OSError("no route to the origin")
    began, given = time.monotonic(), 0
    while origin.loads < scaled(4, 40):
        for each in (one, other):
            assert await each.retrieve_or_load(None, "key", origin.load, LIFE, **options) == 1
            given += 1
        await asyncio.sleep(0.005)
    lasted = time.monotonic() - began
    report(
        23, f"{given} stale values in {lasted:.1f} s, {origin.loads - 1} loads, lease {lease} ms"
    )
    # One at once, and one a lease; each cache that was waiting for one tries it as well.
    assert origin.loads - 1 <= 2 * (lasted * 1000 / lease + 2)


async def test_failing_origin_is_told_when_the_stale_value_is_over(
    one: AsyncRedisCache, other: AsyncRedisCache
) -> None:
    """After `stale_timeout` a call raises the error of its load, in each process."""
    origin = Origin()
    options: LoadOptions = {"stale_timeout": 300}
    await one.retrieve_or_load(None, "key", origin.load, LIFE, **options)
    origin.failure = OSError("no route to the origin")
    # It is over when both say so: each reckons by its own estimate of the server's clock.
    for each in (one, other):
        while True:
            try:
                assert await each.retrieve_or_load(None, "key", origin.load, LIFE, **options) == 1
            except OSError:
                break
            await asyncio.sleep(0.01)
    for each in (one, other, one, other):
        with pytest.raises(OSError, match="no route"):
            await each.retrieve_or_load(None, "key", origin.load, LIFE, **options)
    origin.failure = None
    assert await other.retrieve_or_load(None, "key", origin.load, LIFE) == origin.loads


async def test_failing_origin_is_not_waited_for_again(
    one: AsyncRedisCache, other: AsyncRedisCache
) -> None:
    """A caller without a stale value loads at once; the others do not call the failing origin."""
    origin = Origin()
    await made_stale(one, origin)
    origin.may_end.clear()
    origin.failure = OSError("down")
    assert await one.retrieve_or_load(None, "key", origin.load, LIFE, **STALE) == 1
    await await_until(lambda: origin.loads == 2)
    waiting = asyncio.create_task(other.retrieve_or_load(None, "key", lambda: "new", 60_000))
    await await_until(lambda: other.stats().misses > 0)
    origin.may_end.set()
    # Half of the time after which the lease would have expired.
    guard = Guard(LEASE / 1000 / 2)
    assert await waiting == "new"
    assert not guard.fired
    guard.cancel()


async def test_hard_timeout_of_a_call(one: AsyncRedisCache) -> None:
    """Raises for a caller without a stale value; returns the stale value otherwise."""
    origin = Origin()
    origin.may_end.clear()
    with pytest.raises(CacheTimeout) as caught:
        await one.retrieve_or_load(None, "key", origin.load, hard_timeout=50)
    assert caught.value.code == "LOAD_TIMEOUT"
    origin.may_end.set()
    assert await one.retrieve_or_load(None, "other", origin.load, hard_timeout=0) == 2
    await made_stale(one, origin)
    origin.may_end.clear()
    slow: LoadOptions = {**STALE, "soft_timeout": 5_000, "hard_timeout": 50}
    assert await one.retrieve_or_load(None, "key", origin.load, LIFE, **slow) == 3


async def test_none_from_the_loader_removes_the_stale_value(
    one: AsyncRedisCache, other: AsyncRedisCache
) -> None:
    """Once the origin returns None, the old value is not returned again."""
    origin = Origin()
    await made_stale(one, origin)
    patient: LoadOptions = {**STALE, "soft_timeout": 5_000}

    def none_any_more() -> Any:
        return None

    assert await other.retrieve_or_load(None, "key", none_any_more, LIFE, **patient) is None
    assert await one.retrieve_or_load(None, "key", origin.load, LIFE, **STALE) == 2
