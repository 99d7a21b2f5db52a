"""Results of a loader that cannot be stored or have another type, and failures without a caller."""

from __future__ import annotations

import asyncio
import logging
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import pytest

from async_redis_cache import (
    AsyncRedisCache,
    CacheInputError,
    CoalescingLoader,
    RedisCache,
    cached,
)
from harness import await_until

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

    from harness import Server

pytestmark = pytest.mark.depends_on()

OPTIONS: dict[str, Any] = {"key_prefix": "results:", "max_value_size": 1000}
END: Any = 10.0
"""Seconds after which a call that hangs fails its test."""


class Opaque:
    """What no serializer takes."""


UNSTORABLE = {"opaque": Opaque(), "large": "x" * 2000}


@pytest.fixture
async def cache(server: Server) -> AsyncIterator[AsyncRedisCache]:
    """An open cache of small values."""
    async with AsyncRedisCache.from_url(server.url, **OPTIONS) as cache:
        yield cache


@pytest.fixture
def sync_cache(server: Server) -> Iterator[RedisCache]:
    """The same, of the synchronous API."""
    with RedisCache.from_url(server.url, **OPTIONS) as cache:
        yield cache


@pytest.mark.parametrize("kind", UNSTORABLE)
async def test_result_that_cannot_be_stored_is_returned_by_every_call(
    cache: AsyncRedisCache, kind: str
) -> None:
    """It is the loader's own object; nothing is stored; each is counted."""
    value = UNSTORABLE[kind]
    entry = await cache.retrieve_or_load_entry(None, "a", lambda: value)
    assert entry.value is value
    assert entry.status == "loaded"
    assert await cache.retrieve_or_load(None, "a", lambda: value) is value
    assert await cache.refresh(None, "a", lambda: value) is value
    many = await cache.retrieve_or_load_many(
        None, ["a", "b"], lambda keys: dict.fromkeys(keys, value)
    )
    assert many["a"] is many["b"] is value
    assert (
        await cache.retrieve_or_load(None, "c", CoalescingLoader(lambda _: {"c": value})) is value
    )
    assert cache.stats().uncacheable_results == 6
    assert await cache.retrieve_many(None, ["a", "b", "c"]) == {}


def test_sync_cached_function_returns_a_result_that_cannot_be_stored(
    sync_cache: RedisCache, caplog: pytest.LogCaptureFixture
) -> None:
    """And the log names the function, once."""

    @cached(sync_cache)
    def report(number: int) -> Any:
        return Opaque() if number else None

    with caplog.at_level(logging.WARNING, "async_redis_cache"):
        assert isinstance(report(1), Opaque)
        assert isinstance(report(2), Opaque)
    records = [one for one in caplog.records if one.__dict__["cache_event"] == "result_not_cached"]
    assert len(records) == 1
    assert records[0].__dict__["cache_subject"].endswith(".report")
    assert records[0].__dict__["cache_code"] == "NOT_SERIALIZABLE"


async def joined(cache: AsyncRedisCache, loader_result: Any, *kinds: Any) -> list[Any]:
    """The results of calls that request these types and share one load."""
    may_end = asyncio.Event()

    async def loader() -> Any:
        await may_end.wait()
        return loader_result

    def call(kind: Any) -> asyncio.Task[Any]:
        return asyncio.create_task(cache.retrieve_or_load(None, "a", loader, type=kind))

    calls = [call(kinds[0])]
    # A caller that has read before the lease was acquired may wait for that in a load of its own.
    await await_until(lambda: cache.stats().loads == 1)
    calls += map(call, kinds[1:])
    await await_until(lambda: cache.stats().misses == len(kinds))
    may_end.set()
    async with asyncio.timeout(END):
        results = await asyncio.gather(*calls, return_exceptions=True)
    assert cache.stats().loads == 1
    return results


async def test_every_caller_that_joined_gets_a_result_that_cannot_be_stored(
    cache: AsyncRedisCache,
) -> None:
    """All of them the same object."""
    value = Opaque()
    results = await joined(cache, value, None, None, None)
    assert all(result is value for result in results)


async def test_refresh_removes_the_old_value_when_the_new_one_cannot_be_stored(
    cache: AsyncRedisCache,
) -> None:
    """Other callers must not read what was replaced."""
    await cache.store(None, "a", "old")
    value = Opaque()
    assert await cache.refresh(None, "a", lambda: value) is value
    await await_until_gone(cache, "a")


async def await_until_gone(cache: AsyncRedisCache, key: str) -> None:
    """Wait until a key has no value: releasing a lease is not awaited."""
    async with asyncio.timeout(END):
        while await cache.retrieve(None, key) is not None:
            pass


async def spent() -> None:
    """A coroutine that was forgotten."""


@pytest.mark.parametrize("kind", ["coroutine", "generator", "async generator"])
async def test_result_that_can_be_used_once_is_refused(cache: AsyncRedisCache, kind: str) -> None:
    """Several callers may get it: it is NOT_SERIALIZABLE, and no warning of a coroutine never awaited."""

    async def forgetful() -> Any:
        if kind == "coroutine":
            return spent()
        if kind == "generator":
            return (number for number in range(3))
        return agen()

    async def agen() -> AsyncIterator[int]:
        yield 1

    for call in (
        cache.retrieve_or_load(None, "a", forgetful),
        cache.retrieve_or_load_many(None, ["a"], lambda keys: once(keys, forgetful)),
    ):
        with pytest.raises(CacheInputError, match="only once") as caught:
            await call
        assert caught.value.code == "NOT_SERIALIZABLE"


async def once(keys: list[str], forgetful: Any) -> dict[str, Any]:
    """Of each key what may be used once."""
    return {key: await forgetful() for key in keys}


async def test_coroutine_that_a_plain_loader_returns_in_a_thread_is_awaited(
    cache: AsyncRedisCache,
) -> None:
    """On the event loop, as for a loader that is called there."""

    async def value() -> str:
        return "value"

    assert await cache.retrieve_or_load(None, "a", value, in_thread=True) == "value"
    assert await cache.retrieve_or_load(None, "b", partial(value), in_thread=True) == "value"


@dataclass
class Point:
    """A type."""

    x: int


async def test_joined_load_of_another_type_gives_the_own_type_or_bad_type(
    cache: AsyncRedisCache,
) -> None:
    """Never None: whatever the type is that the load was begun for."""
    results = await joined(cache, {"x": 1}, None, Point, int)
    assert results[:2] == [{"x": 1}, Point(1)]
    assert isinstance(results[2], CacheInputError)
    assert results[2].code == "BAD_TYPE"


async def test_joined_load_of_another_type_whose_result_cannot_be_stored(
    cache: AsyncRedisCache,
) -> None:
    """It is returned where it is of the own type, and BAD_TYPE is raised where it is not."""
    value = "x" * 2000
    results = await joined(cache, value, None, str, Point, list[str], str | None)
    assert results[:2] == [value, value]
    assert [getattr(result, "code", result) for result in results[2:4]] == ["BAD_TYPE"] * 2
    assert results[4] == value


@pytest.mark.parametrize("kind", UNSTORABLE)
async def test_result_that_cannot_be_stored_and_is_of_another_type_is_bad_type(
    cache: AsyncRedisCache, kind: str
) -> None:
    """That it cannot be stored does not make it fit."""
    with pytest.raises(CacheInputError) as caught:
        await cache.retrieve_or_load(None, "a", lambda: UNSTORABLE[kind], type=Point)
    assert caught.value.code == "BAD_TYPE"
    assert cache.stats().uncacheable_results == 0


async def load_point() -> dict[str, str]:
    """Not a point."""
    return {"x": "secret"}


async def test_bad_type_names_the_loader_and_both_types(cache: AsyncRedisCache) -> None:
    """The message says which function returned which type, and which was expected, without the value."""
    loader = f"the loader `{__name__}.load_point` returned `dict`"
    for kind, expected in ((Point, "Point"), (list[int], "list[int]")):
        with pytest.raises(CacheInputError) as caught:
            await cache.retrieve_or_load(None, "a", load_point, type=kind)
        assert caught.value.code == "BAD_TYPE"
        assert caught.value.message == f"{loader}, expected `{expected}`"


async def test_background_failure_is_logged_once_per_function(
    cache: AsyncRedisCache, caplog: pytest.LogCaptureFixture
) -> None:
    """With the type of the exception, and nothing that it says."""
    await cache.retrieve_or_load(None, "a", lambda: "old")

    async def failing() -> str:
        raise LookupError("secret")

    with caplog.at_level(logging.WARNING, "async_redis_cache"):
        async with asyncio.timeout(END):
            while cache.stats().load_failures < 1:
                assert await cache.retrieve_or_load(None, "a", failing, refresh_at=1e-9) == "old"
        await await_until(lambda: bool(caplog.records))
        await cache.retrieve_or_load(None, "b", lambda: "old")
        async with asyncio.timeout(END):
            while cache.stats().load_failures < 2:
                await cache.retrieve_or_load(None, "b", failing, refresh_at=1e-9)
    records = [one for one in caplog.records if one.__dict__["cache_event"] == "refresh_failed"]
    assert len(records) == 1
    assert records[0].__dict__["cache_code"] == "LookupError"
    assert records[0].__dict__["cache_subject"].endswith("failing")
    assert "secret" not in records[0].getMessage()
