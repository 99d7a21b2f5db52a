"""Threads of hanging loaders are bounded: loads beyond the bound are refused."""

from __future__ import annotations

import asyncio
import threading
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import TYPE_CHECKING, Any

import pytest

from async_redis_cache import (
    AsyncRedisCache,
    CacheOverloaded,
    CacheTimeout,
    CoalescingLoader,
    RedisCache,
)
from harness import await_until

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

    from harness import Server

pytestmark = pytest.mark.depends_on()

MOST = 4
OPTIONS: dict[str, Any] = {"key_prefix": "threads:", "loading_max_threads": MOST}
END: Any = 10.0
"""Seconds after which a call that hangs fails its test."""


class Origin:
    """It answers nothing until it may."""

    def __init__(self) -> None:
        self.may_answer = threading.Event()
        self.waiting = 0
        self.most = 0
        self._lock = threading.Lock()

    def load(self, *_: Any) -> Any:
        """Wait."""
        with self._lock:
            self.waiting += 1
            self.most = max(self.most, self.waiting)
        self.may_answer.wait(END)
        with self._lock:
            self.waiting -= 1
        return {"a": "answer"}


@pytest.fixture
def origin() -> Iterator[Origin]:
    """An origin that answers at the latest when the test has ended."""
    origin = Origin()
    yield origin
    origin.may_answer.set()


@pytest.fixture
async def cache(server: Server, origin: Origin) -> AsyncIterator[AsyncRedisCache]:
    """An open cache."""
    async with AsyncRedisCache.from_url(server.url, **OPTIONS) as cache:
        yield cache
        origin.may_answer.set()
        await await_until(lambda: cache.stats().loader_threads == 0)


@pytest.fixture
def sync_cache(server: Server, origin: Origin) -> Iterator[RedisCache]:
    """The same, of the synchronous API."""
    with RedisCache.from_url(server.url, **OPTIONS) as cache:
        yield cache
        origin.may_answer.set()


async def test_load_is_refused_when_abandoned_threads_reach_the_bound(
    cache: AsyncRedisCache, origin: Origin
) -> None:
    """Loads that have ended leave their threads behind; they count until the origin answers."""
    number = 0
    # On a busy machine a load may end before its thread has begun, which then gives its place back.
    while origin.waiting < MOST:
        number += 1
        with pytest.raises((CacheTimeout, CacheOverloaded)):
            await cache.retrieve_or_load(
                None, f"key{number}", origin.load, in_thread=True, hard_timeout=30
            )
    await await_until(lambda: cache.stats().loader_threads == MOST)
    refused = cache.stats().refused_loads
    coalescing = CoalescingLoader(origin.load, in_thread=True)
    async with asyncio.timeout(END):
        for call in (
            cache.retrieve_or_load(None, "a", origin.load, in_thread=True),
            cache.refresh(None, "a", origin.load, in_thread=True),
            cache.retrieve_or_load_many(None, ["a", "b"], origin.load, in_thread=True),
            cache.retrieve_or_load(None, "a", coalescing),
        ):
            with pytest.raises(CacheOverloaded) as caught:
                await call
            assert caught.value.code == "TOO_MANY_THREADS"
    assert cache.stats().refused_loads - refused == 4
    assert origin.most == MOST
    assert await cache.retrieve_or_load(None, "c", lambda: "no thread") == "no thread"
    origin.may_answer.set()
    await await_until(lambda: cache.stats().loader_threads == 0)
    found = await cache.retrieve_or_load_many(None, ["a"], origin.load, in_thread=True)
    assert found == {"a": "answer"}


def test_sync_callers_of_a_hung_origin_leave_as_many_threads_as_may_be(
    sync_cache: RedisCache, origin: Origin
) -> None:
    """Whatever number of callers tries again and again."""

    def call(number: int) -> str:
        try:
            sync_cache.retrieve_or_load(None, f"key{number}", origin.load, hard_timeout=20)
        except (CacheTimeout, CacheOverloaded) as error:
            return error.code
        return "answered"

    with ThreadPoolExecutor(8) as callers:
        codes = list(callers.map(call, range(80)))
    assert set(codes) == {"LOAD_TIMEOUT", "TOO_MANY_THREADS"}
    # A load may end before its thread has begun, and then leaves none.
    assert codes.count("LOAD_TIMEOUT") >= origin.most == MOST
    assert sync_cache.stats().loader_threads == MOST


def test_sync_loaders_that_load_in_turn_are_refused_and_do_not_wait(
    sync_cache: RedisCache,
) -> None:
    """At the bound, a loader whose nested load is refused gets the error at once and frees its thread."""
    both = threading.Barrier(MOST, timeout=END)

    def outer(number: int) -> Any:
        def loader() -> Any:
            both.wait()
            try:
                return sync_cache.retrieve_or_load(None, f"inner{number}", lambda: "inner")
            except CacheOverloaded:
                return "refused"

        return sync_cache.retrieve_or_load(None, f"outer{number}", loader)

    with ThreadPoolExecutor(MOST) as callers:
        results = list(callers.map(outer, range(MOST)))
    assert "refused" in results
    assert set(results) <= {"refused", "inner"}
    assert sync_cache.retrieve_or_load(None, "next", lambda: "next") == "next"


def missed_more_than(cache: AsyncRedisCache, number: int) -> bool:
    """Whether so many calls have found nothing, and one more."""
    return cache.stats().misses > number


async def test_cancelled_load_whose_thread_has_not_begun_frees_its_place(
    cache: AsyncRedisCache, origin: Origin
) -> None:
    """Whenever a caller leaves, the count comes back to nothing."""
    origin.may_answer.set()
    for turns in range(20):
        call = asyncio.create_task(
            cache.retrieve_or_load(None, f"key{turns}", origin.load, in_thread=True)
        )
        await await_until(partial(missed_more_than, cache, turns))
        for _ in range(turns):
            await asyncio.sleep(0)
        call.cancel()
        await asyncio.gather(call, return_exceptions=True)
        await await_until(lambda: cache.stats().loader_threads == 0)
