"""A loader that requests the key that it loads is refused at once; other calls are not."""

from __future__ import annotations

import asyncio
import threading
from functools import partial
from typing import TYPE_CHECKING, Any

import pytest

from async_redis_cache import AsyncRedisCache, CacheLoadError, CoalescingLoader, RedisCache
from async_redis_cache._engine.load_lease import LoadLease
from harness import await_until

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator

    from harness import Server

pytestmark = pytest.mark.depends_on()

OPTIONS: dict[str, Any] = {"key_prefix": "cycles:", "loading_hard_timeout": 600_000}
END: Any = 10.0
"""Seconds after which a call that hangs fails its test: far less than `hard_timeout`."""


@pytest.fixture
async def cache(server: Server) -> AsyncIterator[AsyncRedisCache]:
    """An open cache whose loads may take longer than any test."""
    async with AsyncRedisCache.from_url(server.url, **OPTIONS) as cache:
        yield cache


@pytest.fixture
def sync_cache(server: Server) -> Iterator[RedisCache]:
    """The same, of the synchronous API."""
    with RedisCache.from_url(server.url, **OPTIONS) as cache:
        yield cache


async def refused(*calls: Any) -> None:
    """Each of these calls ends in LOAD_CYCLE."""
    async with asyncio.timeout(END):
        for error in await asyncio.gather(*calls, return_exceptions=True):
            assert isinstance(error, CacheLoadError), error
            assert error.code == "LOAD_CYCLE"


async def test_loader_that_asks_for_its_own_key_is_refused(cache: AsyncRedisCache) -> None:
    """Through every call that loads."""

    async def again() -> Any:
        return await cache.retrieve_or_load(None, "a", again)

    async def entry() -> Any:
        return (await cache.retrieve_or_load_entry(None, "a", again)).value

    async def many() -> Any:
        return await cache.retrieve_or_load_many(
            None, ["b", "a"], lambda keys: dict.fromkeys(keys, 1)
        )

    async def refreshing() -> Any:
        return await cache.refresh(None, "a", refreshing)

    for loader in (again, entry, many, refreshing):
        await refused(cache.retrieve_or_load(None, "a", loader))
        await refused(cache.refresh(None, "a", loader))


async def test_batch_loader_that_asks_for_one_of_its_keys_is_refused(
    cache: AsyncRedisCache,
) -> None:
    """Of one call for many keys, and of a coalescing loader."""

    async def many(keys: list[str]) -> dict[str, Any]:
        value = await cache.retrieve_or_load(None, "b", lambda: 1)
        return dict.fromkeys(keys, value)

    await refused(cache.retrieve_or_load_many(None, ["a", "b"], many))
    coalescing = CoalescingLoader(many)
    await refused(cache.retrieve_or_load(None, "b", coalescing))


async def test_loader_that_asks_for_its_key_through_another_load_is_refused(
    cache: AsyncRedisCache,
) -> None:
    """A loads b, which loads c, which loads a; also from a child task and a thread."""
    loop = asyncio.get_running_loop()

    def in_thread() -> Any:
        asking = cache.retrieve_or_load(None, "a", lambda: 1)
        return asyncio.run_coroutine_threadsafe(asking, loop).result(END)

    async def c() -> Any:
        return await asyncio.create_task(cache.retrieve_or_load(None, "a", lambda: 1))

    lasts: list[tuple[Callable[[], Any], Any]] = [(c, {}), (in_thread, {"in_thread": True})]
    for last, options in lasts:
        c_loads = partial(cache.retrieve_or_load, None, "c", last, **options)
        b_loads = partial(cache.retrieve_or_load, None, "b", c_loads)
        await refused(cache.retrieve_or_load(None, "a", b_loads))


async def test_loads_of_two_callers_that_wait_for_each_other_are_refused(
    cache: AsyncRedisCache,
) -> None:
    """One loads a and then b, the other loads b and then a: the later request is refused."""
    begun = asyncio.Event(), asyncio.Event()

    async def loader(own: int, other: str) -> Any:
        begun[own].set()
        await begun[1 - own].wait()
        return await cache.retrieve_or_load(None, other, lambda: None)

    await refused(
        cache.retrieve_or_load(None, "a", lambda: loader(0, "b")),
        cache.retrieve_or_load(None, "b", lambda: loader(1, "a")),
    )


def test_sync_loader_that_asks_for_its_key_through_another_load_is_refused(
    sync_cache: RedisCache,
) -> None:
    """In worker threads, each of which waits for the next."""

    def a() -> Any:
        return sync_cache.retrieve_or_load(None, "b", b)

    def b() -> Any:
        return sync_cache.retrieve_or_load_many(None, ["a"], lambda keys: dict.fromkeys(keys, 1))

    def own(keys: list[str]) -> Any:
        return {key: sync_cache.retrieve_or_load(None, "d", lambda: 1) for key in keys}

    for call in (
        lambda: sync_cache.retrieve_or_load(None, "a", a),
        lambda: sync_cache.retrieve_or_load_many(None, ["c", "d"], own),
    ):
        with pytest.raises(CacheLoadError) as caught:
            call()
        assert caught.value.code == "LOAD_CYCLE"


def test_sync_loads_of_two_threads_that_wait_for_each_other_are_refused(
    sync_cache: RedisCache,
) -> None:
    """Whichever request is later, both callers get the error."""
    both = threading.Barrier(2, timeout=END)
    codes: list[str] = []

    def call(own: str, other: str) -> None:
        def loader() -> Any:
            both.wait()
            return sync_cache.retrieve_or_load(None, other, lambda: None)

        with pytest.raises(CacheLoadError) as caught:
            sync_cache.retrieve_or_load(None, own, loader)
        codes.append(caught.value.code)

    threads = [threading.Thread(target=call, args=keys) for keys in (("a", "b"), ("b", "a"))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(END)
    assert codes == ["LOAD_CYCLE", "LOAD_CYCLE"]


async def test_task_that_goes_on_after_its_load_may_ask_for_the_key(
    cache: AsyncRedisCache,
) -> None:
    """It is the loader's as long as the load is under way, and no longer."""
    ended = asyncio.Event()
    later: list[asyncio.Task[Any]] = []

    async def afterwards() -> Any:
        await ended.wait()
        await cache.remove(None, "a")
        return await cache.retrieve_or_load(None, "a", lambda: "second")

    async def loader() -> str:
        later.append(asyncio.create_task(afterwards()))
        return "first"

    assert await cache.retrieve_or_load(None, "a", loader) == "first"
    ended.set()
    async with asyncio.timeout(END):
        assert await later[0] == "second"


async def test_same_key_of_another_cache_or_prefix_is_another_key(
    cache: AsyncRedisCache, server: Server
) -> None:
    """A cache in front of another, say."""
    async with AsyncRedisCache.from_url(server.url, key_prefix="behind:") as behind:

        async def loader() -> Any:
            return await behind.retrieve_or_load(None, "a", lambda: "origin")

        async with asyncio.timeout(END):
            assert await cache.retrieve_or_load(None, "a", loader) == "origin"


async def test_loader_may_read_its_own_key(cache: AsyncRedisCache) -> None:
    """A hit waits for nothing: what is stored is returned, and a background refresh of it ends."""
    await cache.store(None, "a", "old")

    async def loader() -> Any:
        old = await cache.retrieve_or_load(None, "a", lambda: "unused", refresh_at=1e-9)
        return [old, await cache.retrieve(None, "a")]

    async with asyncio.timeout(END):
        assert await cache.refresh(None, "a", loader) == ["old", "old"]


async def test_callers_that_share_a_nested_load_are_not_refused(cache: AsyncRedisCache) -> None:
    """Many loads may wait for one, which is no cycle."""
    may_end = asyncio.Event()

    async def shared() -> str:
        await may_end.wait()
        return "shared"

    async def loader() -> Any:
        return await cache.retrieve_or_load(None, "shared", shared)

    calls = [
        asyncio.create_task(cache.retrieve_or_load(None, f"key{number}", loader))
        for number in range(5)
    ]
    await await_until(lambda: cache.stats().misses == 10)
    may_end.set()
    async with asyncio.timeout(END):
        assert await asyncio.gather(*calls) == ["shared"] * 5


async def test_task_that_asks_while_its_load_is_published_is_not_refused(
    cache: AsyncRedisCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The loader has ended by then, and waits for nothing."""
    may_ask, may_publish = asyncio.Event(), asyncio.Event()
    publish = LoadLease.publish
    later: list[asyncio.Task[Any]] = []

    async def held_up(right: LoadLease, *args: Any) -> bool:
        may_ask.set()
        await may_publish.wait()
        return await publish(right, *args)

    async def asking() -> Any:
        await may_ask.wait()
        asked = asyncio.ensure_future(cache.retrieve_or_load(None, "a", lambda: "second"))
        await await_until(lambda: cache.stats().misses == 2)
        may_publish.set()
        return await asked

    async def loader() -> str:
        later.append(asyncio.create_task(asking()))
        return "first"

    monkeypatch.setattr(LoadLease, "publish", held_up)
    async with asyncio.timeout(END):
        assert await cache.retrieve_or_load(None, "a", loader) == "first"
        assert await later[0] == "first"
