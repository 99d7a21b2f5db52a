"""Statements of the pages about loading that no other test covers."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest

from async_redis_cache import AsyncRedisCache, CacheTimeout, LoadOptions
from harness import Client, Server, await_until
from harness.apis import configured

if TYPE_CHECKING:
    from collections.abc import Awaitable, Iterator

pytest_plugins = ["loading_fixtures"]
pytestmark = pytest.mark.depends_on("storage", "near")


@pytest.fixture
def no_memory(raw: Client) -> Iterator[None]:
    """The server refuses whatever needs memory."""
    raw.config_set("maxmemory", 1)
    yield
    raw.config_set("maxmemory", 0)


@pytest.mark.usefixtures("no_memory")
async def test_loaded_value_is_returned_when_the_server_has_no_memory(one: AsyncRedisCache) -> None:
    """A server without memory for a lease or a value: the loaded value is returned and not stored."""
    loads: list[int] = []

    def load() -> int:
        loads.append(1)
        return len(loads)

    assert [await one.retrieve_or_load(None, "key", load) for _ in range(3)] == [1, 2, 3]
    assert await one.retrieve(None, "key") is None


@pytest.mark.parametrize("result", [OSError("down"), None], ids=["an error", "None"])
async def test_errors_are_not_shared_between_processes(
    one: AsyncRedisCache, other: AsyncRedisCache, result: Exception | None
) -> None:
    """Neither an error nor a None that is not remembered goes to another process: one loads after the other."""
    loads = under_way = most_at_once = 0
    may_end = asyncio.Event()

    async def load() -> Any:
        nonlocal loads, under_way, most_at_once
        loads += 1
        under_way += 1
        most_at_once = max(most_at_once, under_way)
        await may_end.wait()
        under_way -= 1
        if result is not None:
            raise result

    def ask(cache: AsyncRedisCache) -> asyncio.Task[Any]:
        return asyncio.create_task(cache.retrieve_or_load(None, "key", load))

    calls = [ask(one)]
    # A caller that has read before the lease was acquired may wait for that in a load of its own.
    await await_until(lambda: loads == 1)
    calls += [ask(one) for _ in range(2)]
    await await_until(lambda: one.stats().misses == 3)
    calls += [ask(other) for _ in range(3)]
    await await_until(lambda: other.stats().misses == 3)
    may_end.set()
    given = await asyncio.gather(*calls, return_exceptions=True)
    # Each caller has an exception of its own.
    assert list(map(repr, given)) == [repr(result)] * 6
    assert (loads, most_at_once) == (2, 1)


@pytest.mark.parametrize("lease", [100, 60_000])
async def test_a_failed_refresh_waits_for_the_lease_to_lapse(
    server: Server, storage: dict[str, Any], lease: int
) -> None:
    """No caller gets the error, and the origin is not called until then."""
    async with configured(server.url, loading_lease_timeout=lease, **storage) as cache:

        def fail() -> int:
            raise OSError("down")

        async def failures(count: int) -> None:
            while cache.stats().load_failures < count:
                assert await ask() == 1
                await asyncio.sleep(0.005)

        def ask() -> Awaitable[int]:
            return cache.retrieve_or_load(None, "key", fail, 60_000, refresh_at=0.0001)

        await cache.retrieve_or_load(None, "key", lambda: 1, 60_000)
        async with asyncio.timeout(60):
            await failures(1)
            if lease < 60_000:
                await failures(2)
                return
        assert [await ask() for _ in range(50)] == [1] * 50
        assert cache.stats().loads == 2


async def test_joiner_has_the_hard_timeout_of_the_load(one: AsyncRedisCache) -> None:
    """The call that begins a load says how long it may take."""
    may_end = asyncio.Event()

    async def load() -> int:
        await may_end.wait()
        return 1

    def ask(hard_timeout: int) -> asyncio.Task[int]:
        call = one.retrieve_or_load(None, "key", load, hard_timeout=hard_timeout)
        return asyncio.create_task(call)

    first = ask(60_000)
    await await_until(lambda: one.stats().loads == 1)
    second = ask(1)
    assert (await asyncio.wait((second,), timeout=0.1))[0] == set()
    may_end.set()
    assert [await first, await second] == [1, 1]
    with pytest.raises(CacheTimeout):
        await one.refresh(None, "key", asyncio.Event().wait, hard_timeout=1)


async def test_stored_values_are_not_refreshed_ahead(one: AsyncRedisCache) -> None:
    """What was stored and not loaded; and nothing, by a call that does not load."""
    early: LoadOptions = {"refresh_at": 0.0001}
    await one.store(None, "stored", 1, 60_000)
    await one.store(None, "tagged", 1, 60_000, tags=["a"])
    await one.retrieve_or_load(None, "loaded", lambda: 1, 60_000)
    assert (await one.retrieve_entry(None, "stored")).age is None
    while ((await one.retrieve_entry(None, "loaded")).age or 0) < 20:
        assert await one.retrieve(None, "loaded") == 1
    assert await one.retrieve_or_load(None, "stored", lambda: 2, 60_000, **early) == 1
    assert one.stats().refreshes == 0
    assert await one.retrieve_or_load(None, "tagged", lambda: 2, 60_000, **early) == 1
    await await_until(lambda: one.stats().refreshes == 1)
