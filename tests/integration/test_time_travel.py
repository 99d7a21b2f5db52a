"""Values expire when a test moves the clock, with `fake://`."""

from __future__ import annotations

import datetime as dt
import os
import sys
from collections.abc import AsyncIterator, Callable, Generator
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import pytest

from async_redis_cache import AsyncRedisCache, RedisCache

if "CI" not in os.environ:
    pytest.importorskip("freezegun")
    pytest.importorskip("time_machine")

import time_machine
from freezegun import freeze_time

START = dt.datetime(2026, 1, 1, tzinfo=dt.UTC)
# The clocks that tick run on while a busy machine stalls, so every bound leaves many minutes.
HOUR = 3600
MINUTE = dt.timedelta(minutes=1)
Travel = Callable[[dt.timedelta], object]


@contextmanager
def moved_by_time_machine(**options: Any) -> Generator[Travel]:
    """Time travel by time-machine."""
    with time_machine.travel(START, **options) as traveller:
        yield traveller.shift


@contextmanager
def moved_by_freezegun(**options: Any) -> Generator[Travel]:
    """Time travel by freezegun. Without `real_asyncio`, the clock of the event loop is moved as well."""
    with freeze_time(START, **options) as frozen:
        yield frozen.tick


STOPPED_CLOCKS = [
    pytest.param(lambda: moved_by_time_machine(tick=False), id="time-machine"),
    pytest.param(moved_by_freezegun, id="freezegun"),
    pytest.param(lambda: moved_by_freezegun(real_asyncio=True), id="freezegun-asyncio"),
]
CLOCKS = [
    *STOPPED_CLOCKS,
    pytest.param(lambda: moved_by_time_machine(tick=True), id="time-machine-tick"),
    pytest.param(lambda: moved_by_freezegun(real_asyncio=True, tick=True), id="freezegun-tick"),
]
MovedClock = Callable[[], AbstractContextManager[Travel]]


@pytest.fixture(params=[False, True], ids=["own-loop", "any-loop"])
async def cache(request: pytest.FixtureRequest) -> AsyncIterator[AsyncRedisCache]:
    """A cache of a fake server, opened before the clock is moved."""
    async with AsyncRedisCache.from_url("fake://", any_loop=request.param) as cache:
        yield cache


@pytest.mark.parametrize("moved_clock", CLOCKS)
async def test_values_expire_when_the_clock_moves(
    cache: AsyncRedisCache, moved_clock: MovedClock
) -> None:
    """Values are served up to their TTL by the moved clock, and neither served nor counted beyond."""
    plain = cache.namespace("plain", ttl=HOUR)
    tagged = cache.namespace("tagged", ttl=HOUR, tags=("tag",))
    loads: list[str] = []

    async def load() -> int:
        loads.append("load")
        return len(loads)

    with moved_clock() as travel:
        await plain.set("key", 1)
        assert await tagged.get_or_load("key", load) == 1
        travel(50 * MINUTE)
        assert await plain.get("key") == 1
        assert await plain.ttl("key") == pytest.approx(10 * 60, abs=8 * 60)
        assert await tagged.get_or_load("key", load) == 1
        travel(20 * MINUTE)
        assert await plain.get("key") is None
        assert await tagged.get("key") is None
        assert await tagged.get_or_load("key", load) == 2
        assert await tagged.get_or_load("key", load) == 2
        await tagged.invalidate_tags("tag")
        assert await tagged.get("key") is None


@pytest.mark.parametrize("moved_clock", STOPPED_CLOCKS)
async def test_load_is_stored_once_the_clock_has_moved_after_an_invalidation(
    cache: AsyncRedisCache, moved_clock: MovedClock
) -> None:
    """A millisecond is enough. At the same time, the load may have read what was there before the invalidation."""
    values = cache.namespace("values", ttl=HOUR, tags=("tag",))
    with moved_clock() as travel:
        await values.invalidate_tags("tag")
        travel(dt.timedelta(milliseconds=1))
        assert await values.get_or_load("key", lambda: 1) == 1
        assert await values.get("key") == 1


@pytest.mark.parametrize("moved_clock", STOPPED_CLOCKS)
async def test_result_is_stored_although_the_clock_moves_during_its_load(
    cache: AsyncRedisCache, moved_clock: MovedClock
) -> None:
    """The clock that a load with tags is timed by moves along with that of the server: neither seems to have been set."""
    values = cache.namespace("values", ttl=HOUR, tags=("tag",))
    with moved_clock() as travel:

        async def load_for_a_second() -> int:
            travel(dt.timedelta(seconds=1))
            return 1

        assert await values.get_or_load("key", load_for_a_second) == 1
        assert await values.get("key") == 1


@pytest.mark.parametrize("moved_clock", CLOCKS)
async def test_value_becomes_stale_when_the_clock_moves(
    cache: AsyncRedisCache, moved_clock: MovedClock
) -> None:
    """The cache's own estimate of the server's time moves along: a value is stale at once, and later gone."""
    values = cache.namespace("values", ttl=HOUR, stale_timeout=HOUR * 1000)

    async def fail() -> int:
        raise OSError("down")

    with moved_clock() as travel:
        assert (await values.get_or_load_entry("key", lambda: 1)).status == "loaded"
        assert (await values.get_or_load_entry("key", fail)).status == "hit"
        travel(70 * MINUTE)
        assert await values.get("key") is None
        entry = await values.get_or_load_entry("key", fail)
        assert (entry.value, entry.status) == (1, "stale")
        assert entry.age is not None
        assert 65 <= entry.age / 60_000 < 75
        travel(60 * MINUTE)
        with pytest.raises(OSError, match="down"):
            await values.get_or_load("key", fail)


async def test_cache_is_usable_after_the_clock_moves_back(cache: AsyncRedisCache) -> None:
    """Values stored by the real clock are served after a journey into the future and back."""
    values = cache.namespace("values", ttl=HOUR)
    with time_machine.travel(dt.datetime(2100, 1, 1, tzinfo=dt.UTC)):
        assert await values.get_or_load("key", lambda: 1, stale_timeout=1) == 1
    assert await values.refresh("key", lambda: 2, stale_timeout=1) == 2
    assert await values.get_or_load("key", lambda: 3, stale_timeout=1) == 2


@pytest.mark.parametrize("has_uvloop", [True, False], ids=["uvloop", "asyncio"])
@pytest.mark.parametrize("frozen", [True, False], ids=["freezegun", "time-machine"])
def test_values_of_a_synchronous_cache_expire(
    monkeypatch: pytest.MonkeyPatch, *, frozen: bool, has_uvloop: bool
) -> None:
    """`RedisCache` needs no option of freezegun: the timers of its private event loop are never frozen."""
    if not has_uvloop:
        monkeypatch.setitem(sys.modules, "uvloop", None)
    with RedisCache.from_url("fake://") as cache:
        values = cache.namespace("values", ttl=HOUR, tags=("tag",))
        with freeze_time(START) if frozen else time_machine.travel(START, tick=False) as clock:
            travel: Travel = clock.tick if frozen else clock.shift  # type: ignore[union-attr]
            assert values.get_or_load("key", lambda: 1) == 1
            assert values.get_or_load("key", lambda: 2) == 1
            travel(70 * MINUTE)
            assert values.get("key") is None
            assert values.get_or_load("key", lambda: 3) == 3
