"""`retrieve_or_load_many`: one call of the loader for all missing keys."""

from __future__ import annotations

import asyncio
import threading
from typing import Any

import pytest

from async_redis_cache import (
    AsyncRedisCache,
    CacheError,
    CacheInputError,
    CoalescingLoader,
    LoadOptions,
)
from harness import Server, StartServer, await_until
from harness.apis import Api, configured
from harness.loading_origin import AGREEMENT_SECONDS

pytest_plugins = ["loading_fixtures", "near_fixtures"]
pytestmark = pytest.mark.depends_on("api", "storage", "near")


class Origin:
    """What is loaded from: it notes what it was asked for."""

    def __init__(self) -> None:
        self.calls: list[list[str]] = []
        self.may_end = asyncio.Event()
        self.may_end.set()
        self.cancelled = 0

    async def load(self, keys: list[str]) -> dict[str, Any]:
        self.calls.append(keys)
        call = len(self.calls)
        try:
            await self.may_end.wait()
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        return {key: [key, call] for key in keys if key != "none"}


async def test_missing_keys_are_loaded_in_one_call(
    one: AsyncRedisCache, other: AsyncRedisCache
) -> None:
    """Missing keys are loaded and stored, present ones are not requested, and keys that the loader omits are omitted."""
    origin = Origin()
    await one.store(None, "b", "stored")
    keys = ["c", "b", "none", "a", "c"]
    found = await one.retrieve_or_load_many(None, keys, origin.load, 60_000)
    assert list(found.items()) == [("c", ["c", 1]), ("b", "stored"), ("a", ["a", 1])]
    assert origin.calls == [["c", "none", "a"]]
    assert await other.retrieve_or_load_many(None, ["a", "b", "c"], origin.load) == found
    assert await other.retrieve_many(None, keys) == found
    assert len(origin.calls) == 1
    assert await one.retrieve_or_load_many(None, [], origin.load) == {}


async def test_many_keys(one: AsyncRedisCache) -> None:
    """As many as there may be: still one call."""
    origin = Origin()
    keys = [f"key{number}" for number in range(900)]
    found = await one.retrieve_or_load_many(None, keys, origin.load)
    assert found == {key: [key, 1] for key in keys}
    assert [sorted(call) for call in origin.calls] == [sorted(keys)]


async def test_concurrent_callers_share_loads(one: AsyncRedisCache, other: AsyncRedisCache) -> None:
    """Keys that are being loaded, here or elsewhere, alone or with others, are not loaded again."""
    origin = Origin()
    origin.may_end.clear()

    async def single() -> Any:
        return (await origin.load(["a"]))["a"]

    calls: list[asyncio.Task[Any]] = [asyncio.create_task(one.retrieve_or_load(None, "a", single))]
    await await_until(lambda: len(origin.calls) == 1)
    more = [(one, ["a", "b"]), (other, ["b", "c"]), (one, ["c", "d", "a"])]
    for each, keys in more:
        loading = each.retrieve_or_load_many(None, keys, origin.load)
        calls.append(asyncio.create_task(loading))
        await await_until(lambda: len(origin.calls) == len(calls))
    origin.may_end.set()
    a, b, c, d = (["a", 1], ["b", 2], ["c", 3], ["d", 4])
    expected: list[Any] = [a, {"a": a, "b": b}, {"b": b, "c": c}, {"c": c, "d": d, "a": a}]
    assert await asyncio.gather(*calls) == expected
    assert origin.calls == [["a"], ["b"], ["c"], ["d"]]


async def test_cancelled_caller_does_not_cancel_the_load(one: AsyncRedisCache) -> None:
    """The loader is cancelled when the last waiter of all its keys is."""
    origin = Origin()
    origin.may_end.clear()
    many = asyncio.create_task(one.retrieve_or_load_many(None, ["a", "b"], origin.load))
    await await_until(lambda: len(origin.calls) == 1)
    single = asyncio.create_task(one.retrieve_or_load(None, "b", lambda: ["other"]))
    await await_until(lambda: one.stats().misses == 3)
    many.cancel()
    with pytest.raises(asyncio.CancelledError):
        await many
    await asyncio.sleep(0)
    assert origin.cancelled == 0
    origin.may_end.set()
    assert await single == ["b", 1]
    origin.may_end.clear()
    alone = asyncio.create_task(one.retrieve_or_load_many(None, ["c", "d"], origin.load))
    await await_until(lambda: len(origin.calls) == 2)
    alone.cancel()
    await await_until(lambda: origin.cancelled == 1)


async def test_error_is_raised_in_all_callers_and_not_cached(one: AsyncRedisCache) -> None:
    """So is a result that is no mapping."""
    origin = Origin()

    async def failing(_: list[str]) -> dict[str, Any]:
        raise OSError("down")

    with pytest.raises(OSError, match="down"):
        await one.retrieve_or_load_many(None, ["a", "b"], failing)
    wrong: Any = list
    with pytest.raises(CacheInputError, match="expected a mapping") as caught:
        await one.retrieve_or_load_many(None, ["a", "b"], wrong)
    assert caught.value.code == "NOT_SERIALIZABLE"
    with pytest.raises(CacheInputError):
        await one.retrieve_or_load_many(None, "ab", origin.load)
    assert await one.retrieve_or_load_many(None, ["a"], origin.load) == {"a": ["a", 1]}


async def test_write_supersedes_the_load_of_its_key_alone(
    one: AsyncRedisCache, other: AsyncRedisCache
) -> None:
    """Its loaded value is returned to its callers and not stored; the others are stored."""
    origin = Origin()
    origin.may_end.clear()
    call = asyncio.create_task(one.retrieve_or_load_many(None, ["a", "b"], origin.load))
    await await_until(lambda: len(origin.calls) == 1)
    await other.store(None, "a", "new")
    origin.may_end.set()
    assert await call == {"a": ["a", 1], "b": ["b", 1]}
    assert await other.retrieve_many(None, ["a", "b"]) == {"a": "new", "b": ["b", 1]}


async def test_stale_and_missing(one: AsyncRedisCache, other: AsyncRedisCache) -> None:
    """Stale values are given at once, and loaded anew in one call; "none" is remembered."""
    origin = Origin()
    options: LoadOptions = {"stale_timeout": 60_000, "missing_timeout": 60_000}
    keys = ["a", "b", "none"]
    first = await one.retrieve_or_load_many(None, keys, origin.load, 100, **options)
    async with asyncio.timeout(60):
        while await one.retrieve_many(None, keys) != {}:  # noqa: ASYNC110  the server tells nobody
            await asyncio.sleep(0.005)
    # To the other it may be fresh a moment longer.
    await asyncio.sleep(AGREEMENT_SECONDS)
    assert await other.retrieve_or_load_many(None, keys, origin.load, 60_000, **options) == first
    await await_until(lambda: len(origin.calls) == 2)
    async with asyncio.timeout(60):
        while len(await one.retrieve_many(None, keys)) != 2:  # noqa: ASYNC110  as above
            await asyncio.sleep(0.005)
    found = await one.retrieve_or_load_many(None, keys, origin.load, **options)
    assert found == {"a": ["a", 2], "b": ["b", 2]}
    assert origin.calls == [keys, ["a", "b"]]


async def test_keys_are_loaded_while_the_server_is_unreachable(
    private_server: StartServer, api: Api
) -> None:
    """The loader is called once for all keys, and the call succeeds."""
    server = private_server()
    calls: list[list[str]] = []

    def load(keys: list[str]) -> dict[str, str]:
        calls.append(keys)
        return {key: key.upper() for key in keys}

    async with configured(server.url, api, command_timeout=200, max_size=0) as cache:
        assert await cache.retrieve_or_load_many(None, ["a", "b"], load) == {"a": "A", "b": "B"}
        server.kill()
        for _ in range(5):
            found = await cache.retrieve_or_load_many(None, ["a", "c"], load)
            assert found == {"a": "A", "c": "C"}
        with pytest.raises(CacheError):
            await cache.retrieve_many(None, ["a", "b"])
    assert calls == [["a", "b"], *[["a", "c"]] * 5]


async def test_single_misses_are_coalesced(server: Server, storage: dict[str, Any]) -> None:
    """Callers of one pipeline: each gets its value, None, or the error."""
    origin = Origin()
    load = CoalescingLoader(origin.load)
    keys = [f"k{n}" for n in range(60)] + ["none"]
    # With rights that last, however busy the loop is.
    async with configured(server.url, **storage) as one, configured(server.url, **storage) as other:
        await one.store(None, "k3", "there")
        asked = [one.retrieve_or_load(None, key, load) for key in keys for _ in range(2)]
        found = await asyncio.gather(*asked)
        stored = await other.retrieve_many(None, keys)
    call_of_k0 = next(number for number, call in enumerate(origin.calls, 1) if "k0" in call)
    assert {str(value) for value in found} >= {"there", "None", f"['k0', {call_of_k0}]"}
    loaded = [key for call in origin.calls for key in call]
    assert sorted(loaded) == sorted({*keys} - {"k3"})
    # The first question leaves alone, for nothing is under way; the others by an exchange or a few.
    assert len(origin.calls) < 20
    assert stored == {
        **{
            key: [key, number]
            for number, call in enumerate(origin.calls, 1)
            for key in call
            if key != "none"
        },
        "k3": "there",
    }


@pytest.mark.parametrize("max_keys", [1, 3])
async def test_no_more_than_so_many_at_once(max_keys: int, one: AsyncRedisCache) -> None:
    """More are loaded by more calls."""
    origin = Origin()
    load = CoalescingLoader(origin.load, max_keys=max_keys)
    keys = [f"k{n}" for n in range(10)]
    await asyncio.gather(*(one.retrieve_or_load(None, key, load) for key in keys))
    assert max(map(len, origin.calls)) == max_keys
    assert sum(map(len, origin.calls)) == 10


async def test_coalesced_loads_share_one_error(one: AsyncRedisCache) -> None:
    """And the next call is as the first."""
    is_broken = True

    async def fail(keys: list[str]) -> dict[str, int]:
        if is_broken:
            raise LookupError
        return dict.fromkeys(keys, 1)

    load = CoalescingLoader(fail)
    asked = [one.retrieve_or_load(None, key, load) for key in "abc"]
    errors = await asyncio.gather(*asked, return_exceptions=True)
    assert {type(error) for error in errors} == {LookupError}
    is_broken = False
    assert await one.retrieve_or_load(None, "a", load) == 1


async def test_key_may_be_refreshed_while_it_is_loaded(one: AsyncRedisCache) -> None:
    """Both calls get a value, and neither waits for ever."""
    origin = Origin()
    load = CoalescingLoader(origin.load)
    asked = [one.refresh(None, "key", load) for _ in range(5)]
    asked.append(one.retrieve_or_load(None, "key", load))
    async with asyncio.timeout(60):
        found: list[Any] = await asyncio.gather(*asked)
    assert all(key == "key" for key, _ in found)


async def test_caller_of_a_coalesced_load_may_be_cancelled(one: AsyncRedisCache) -> None:
    """A load continues for the other callers, and is cancelled with the last one."""
    origin = Origin()
    origin.may_end.clear()
    load = CoalescingLoader(origin.load)
    first = asyncio.create_task(one.retrieve_or_load(None, "first", load))
    await await_until(lambda: len(origin.calls) == 1)
    asked = [asyncio.create_task(one.retrieve_or_load(None, key, load)) for key in "ab"]
    await await_until(lambda: sum(map(len, origin.calls)) == 3)
    asked[0].cancel()
    first.cancel()
    await await_until(lambda: origin.cancelled >= 1)
    origin.may_end.set()
    assert await asked[1] in (["b", 2], ["b", 3])


async def test_loads_are_coalesced_by_both_apis_and_in_threads(server: Server, api: Api) -> None:
    """A plain loader can run in a thread; the loop that it is called on does not matter."""
    threads: list[str] = []

    def plain(keys: list[str]) -> dict[str, int]:
        threads.append(threading.current_thread().name)
        return {key: len(key) for key in keys}

    load = CoalescingLoader(plain, in_thread=True)
    async with configured(server.url, api, key_prefix="c:") as cache:
        assert await cache.retrieve_or_load(None, "four", load) == 4
    async with configured(server.url, key_prefix="d:") as cache:
        assert await cache.retrieve_or_load(None, "four", load) == 4
    assert len(threads) == 2
    assert not {"MainThread", "RedisCache"} & {*threads}
