"""Near cache, tags, batch loads and spans of a cache that is awaited from several event loops."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import pytest

from async_redis_cache import AsyncRedisCache, RedisCache
from harness import Client, Server
from harness.waiting import wait_until

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import ReadableSpan

    from harness.telemetry import Telemetry

pytest_plugins = ["otel_fixtures"]
pytestmark = pytest.mark.depends_on("server")

OpenCache = Callable[..., AsyncRedisCache]
KEYS = [f"key{number}" for number in range(20)]


@pytest.fixture
def open_cache(server: Server, key_prefix: str) -> Iterator[OpenCache]:
    """Open caches with these options, each on an event loop that then ends; they are closed at the end of the test."""
    caches: list[AsyncRedisCache] = []

    def opened(**options: Any) -> AsyncRedisCache:
        caches.append(
            AsyncRedisCache.from_url(server.url, any_loop=True, key_prefix=key_prefix, **options)
        )
        asyncio.run(caches[-1].open(None))
        return caches[-1]

    yield opened
    for cache in caches:
        asyncio.run(cache.close(None))


def test_near_hits_are_served_and_invalidated(
    open_cache: OpenCache, raw: Client, key_prefix: str
) -> None:
    """Every event loop is served by one near cache, until the server reports a change."""
    cache = open_cache(near_cache_enabled=True)
    wait_until(lambda: cache.stats().near_connected)
    raw.set(f"{key_prefix}key", "1")

    def read(value: int) -> bool:
        return bool(asyncio.run(cache.retrieve(None, "key")) == value)

    def are_near() -> bool:
        before = cache.stats()
        assert all(read(1) for _ in range(20))
        after = cache.stats()
        near_hits = after.near_hits - before.near_hits
        return (near_hits, after.round_trips) == (20, before.round_trips)

    # The first read fills the near cache, and a late invalidation of the first change may remove the entry.
    wait_until(are_near)
    raw.set(f"{key_prefix}key", "2")
    wait_until(lambda: read(2))


def test_value_that_another_loop_stores_replaces_the_near_one(open_cache: OpenCache) -> None:
    """A store or an invalidation of one event loop is seen by the next call of any other."""
    cache = open_cache(near_cache_enabled=True)
    wait_until(lambda: cache.stats().near_connected)
    for number in range(100):
        asyncio.run(cache.store(None, "key", number, tags=("tag",)))
        assert asyncio.run(cache.retrieve(None, "key")) == number
        if number % 3 == 0:
            asyncio.run(cache.invalidate_tags(None, "tag"))
            assert asyncio.run(cache.retrieve(None, "key")) is None


def test_tags_of_several_loops(open_cache: OpenCache, server: Server, key_prefix: str) -> None:
    """Tags that a cache of another process invalidates are invalid on every event loop; other values stay."""
    cache = open_cache()

    async def load(tag: str) -> Any:
        return await cache.retrieve_or_load(None, f"of {tag}", lambda: tag, tags=(tag,))

    assert [asyncio.run(load(tag)) for tag in "abab"] == ["a", "b", "a", "b"]
    with RedisCache.from_url(server.url, key_prefix=key_prefix) as other:
        other.invalidate_tags(None, "a")
    assert asyncio.run(cache.retrieve_many(None, ["of a", "of b"])) == {"of b": "b"}
    assert cache.stats().loads == 2


def test_batch_loads_of_several_loops(open_cache: OpenCache) -> None:
    """Each key is loaded once for all event loops, by the batch loader of the one that has asked for it first."""
    cache = open_cache()
    batches: list[tuple[int, list[str]]] = []
    ready = threading.Barrier(4)
    wrong: list[object] = []

    async def load(keys: list[str]) -> dict[str, str]:
        batches.append((threading.get_ident(), keys))
        await asyncio.sleep(0)
        return {key: key.upper() for key in keys if key != KEYS[0]}

    async def call(first: int) -> None:
        found = await cache.retrieve_or_load_many(None, KEYS[first:], load)
        if found != {key: key.upper() for key in KEYS[max(first, 1) :]}:
            wrong.append(found)

    def run(first: int) -> None:
        ready.wait()
        asyncio.run(call(first))

    threads = [threading.Thread(target=run, args=(5 * number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []
    loaded = [key for _, keys in batches for key in keys]
    assert sorted(loaded) == sorted(KEYS)
    assert {ident for ident, _ in batches} <= {thread.ident for thread in threads}


def test_spans_of_caller_call_and_loader(open_cache: OpenCache, telemetry: Telemetry) -> None:
    """The span of a call is a child of the caller's, and what the loader begins is a child of that of the call."""
    cache = open_cache(near_cache_enabled=True)
    telemetry.of(cache)
    tracer = telemetry.tracers.get_tracer("test")

    async def load() -> int:
        with tracer.start_as_current_span("query"):
            return 7

    async def request() -> Any:
        with tracer.start_as_current_span("request"):
            return await cache.retrieve_or_load(None, "key", load)

    def spans_of_request() -> dict[str, ReadableSpan]:
        assert asyncio.run(request()) == 7
        return {span.name.partition(" ")[0]: span for span in telemetry.spans()}

    loaded, read = spans_of_request(), spans_of_request()
    assert loaded["query"].parent == loaded["retrieve_or_load"].get_span_context()
    for spans in (loaded, read):
        assert spans["retrieve_or_load"].parent == spans["request"].get_span_context()
    assert read.keys() == {"request", "retrieve_or_load"}
