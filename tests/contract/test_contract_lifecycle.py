"""Open, close and counters: what both APIs guarantee besides values."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import TYPE_CHECKING, Any

import pytest

from async_redis_cache import AsyncRedisCache, CacheStateError, CacheStats, CacheUnsupported

if TYPE_CHECKING:
    # At run time pytest itself must be the first to import it.
    from contract_fixtures import NewCache, Setup

pytest_plugins = ["contract_fixtures"]


def operations(cache: AsyncRedisCache) -> list[Callable[[], Coroutine[Any, Any, Any]]]:
    """A valid call of each operation with the trace id "t"."""
    return [
        lambda: cache.store("t", "key", 1),
        lambda: cache.store("t", "key", None),
        lambda: cache.retrieve("t", "key"),
        lambda: cache.remove("t", "key"),
        lambda: cache.store_many("t", {"key": 1}),
        lambda: cache.store_many("t", {}),
        lambda: cache.retrieve_many("t", ["key"]),
        lambda: cache.retrieve_many("t", []),
        lambda: cache.remove_many("t", ["key"]),
        lambda: cache.contains("t", "key"),
        lambda: cache.touch("t", "key"),
        lambda: cache.time_to_live("t", "key"),
        lambda: cache.clear("t"),
        lambda: cache.ping("t"),
    ]


@pytest.mark.depends_on("api", "near")
async def test_every_operation_needs_an_open_cache(new_cache: NewCache) -> None:
    """Before open and after close each operation raises NOT_OPENED; the error is counted."""
    cache = new_cache()
    for _ in range(2):
        errors = cache.stats().errors
        for operation in operations(cache):
            with pytest.raises(CacheStateError) as caught:
                await operation()
            assert (caught.value.code, caught.value.trace_id) == ("NOT_OPENED", "t")
        assert cache.stats().errors == errors + len(operations(cache))
        async with cache:
            assert cache.is_open()
            for operation in operations(cache):
                await operation()


@pytest.mark.depends_on("api", "server", "near")
async def test_open_and_close_twice(new_cache: NewCache) -> None:
    """Opening an open cache and closing a closed one change nothing."""
    cache = new_cache()
    assert cache.is_open() is False
    await cache.close("t")
    assert cache.is_open() is False
    await cache.open("t")
    await cache.store(None, "key", 1)
    connects = cache.stats().connects
    await cache.open("t")
    assert cache.is_open() is True
    assert cache.stats().connects == connects
    assert await cache.retrieve(None, "key") == 1
    await cache.close("t")
    await cache.close("t")
    assert cache.is_open() is False


@pytest.mark.depends_on("api", "server", "near")
async def test_reopening(setup: Setup, new_cache: NewCache) -> None:
    """A closed cache can be opened again, on the values it had where the server kept them."""
    cache = new_cache()
    for turn in range(3):
        await cache.open(None)
        if turn and setup.server not in {"fake", "embedded"}:
            assert await cache.retrieve(None, "key") == turn - 1
        await cache.store(None, "key", turn)
        assert await cache.retrieve(None, "key") == turn
        await cache.close(None)


@pytest.mark.depends_on("api")
async def test_with_closes_after_an_error(new_cache: NewCache) -> None:
    """The context manager closes whatever happens inside, and lets it pass."""
    cache = new_cache()
    was_open: list[bool] = []
    with pytest.raises(ZeroDivisionError):  # noqa: PT012  what is tested is the block
        async with cache:
            was_open.append(cache.is_open())
            raise ZeroDivisionError
    assert was_open == [True]
    assert not cache.is_open()


@pytest.mark.depends_on("api", "storage", "near")
async def test_counts(setup: Setup, new_cache: NewCache) -> None:
    """Each counter of `stats` moves exactly when its documentation says, and survives a close."""
    cache = new_cache()
    async with cache:
        near = setup.storage == "near"
        assert cache.stats() == CacheStats(round_trips=1, connects=1, near_connected=near)
        await cache.store(None, "a", 1)
        await cache.store_many(None, {"b": 2, "c": 3, "d": None})
        await cache.retrieve(None, "a")
        await cache.retrieve(None, "missing")
        await cache.retrieve_many(None, ["a", "b", "missing"])
        await cache.contains(None, "a")
        await cache.touch(None, "a")
        await cache.time_to_live(None, "a")
        await cache.remove(None, "a")
        await cache.remove(None, "a")
        await cache.store(None, "b", None)
        assert await cache.remove_many(None, ["b", "c"]) == 1
        with pytest.raises(ValueError, match="key"):
            await cache.retrieve(None, "")
    stats = cache.stats()
    assert (stats.hits, stats.misses) == (3, 2)
    assert (stats.stores, stats.removals) == (3, 3)
    assert (stats.errors, stats.unreadable) == (1, 0)
    assert (stats.batched_calls, stats.retries) == (0, 0)
    # One for the ping of open; store_many with a None is two at a time, and a touch that looks first is two.
    assert stats.connects in {1, 2}
    looks_first = setup.storage == "unbounded"
    assert stats.round_trips == 1 + 13 + looks_first
    async with cache:
        await cache.retrieve(None, "c")
    assert cache.stats().misses == 3
    # What is given is a copy.
    stats.hits = 5
    assert cache.stats().hits == 3


@pytest.mark.depends_on("storage", "near")
async def test_concurrent_calls_are_pipelined(setup: Setup, cache: AsyncRedisCache) -> None:
    """A hundred tasks that ask at once need a handful of round trips, counted as batched calls."""
    if setup.api == "sync":
        pytest.skip("threads travel together; one task that waits for another does not")
    await cache.store_many(None, {f"key{number}": number for number in range(100)})
    before = cache.stats()
    found = await asyncio.gather(*(cache.retrieve(None, f"key{number}") for number in range(100)))
    assert found == list(range(100))
    after = cache.stats()
    assert after.round_trips - before.round_trips <= 5
    assert after.batched_calls - before.batched_calls >= 90
    assert after.hits - before.hits == 100


@pytest.mark.depends_on("api", "near")
async def test_clear_raises_without_prefix_and_bound(setup: Setup, new_cache: NewCache) -> None:
    """Without prefix and bound clear refuses, typed, and removes nothing."""
    async with new_cache(max_size=0, key_prefix="") as cache:
        await cache.store(None, "key", 1)
        with pytest.raises(CacheUnsupported) as caught:
            await cache.clear("t")
        assert (caught.value.code, caught.value.trace_id) == ("UNSUPPORTED", "t")
        assert await cache.retrieve(None, "key") == 1


@pytest.mark.depends_on("api", "storage")
async def test_repr_shows_the_state_and_no_values(cache: AsyncRedisCache) -> None:
    """A cache in a log shows whether it is open, and neither values nor secrets."""
    await cache.store(None, "key", "the value")
    assert "RedisCache" in repr(cache)
    assert "value" not in repr(cache)
    assert "sixteen" not in repr(cache)
