"""`add`, `incr` and `decr`: what they store, what they count as a value, and that they are executed once."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

from async_redis_cache import (
    AsyncRedisCache,
    CacheInputError,
    CacheOutcomeUnknown,
    CacheServerError,
    CacheUnsupported,
)
from harness.apis import APIS, Api, configured

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from harness import Client, Server, StartProxy

pytestmark = pytest.mark.depends_on("api", "server")

PREFIX = "p:"
INDEX = f"{PREFIX}\x00index"
WAYS = {"bounded": {"max_size": 10}, "unbounded": {"max_size": 0}}


@pytest.fixture(params=APIS)
def api(request: pytest.FixtureRequest) -> Api:
    """Both APIs have the same core."""
    chosen: Api = request.param
    return chosen


@pytest.fixture(params=WAYS)
async def cache(
    server: Server, api: Api, request: pytest.FixtureRequest
) -> AsyncIterator[AsyncRedisCache]:
    """With and without a bound, whose scripts differ."""
    async with configured(server.url, api, key_prefix=PREFIX, **WAYS[request.param]) as opened:
        yield opened


async def test_add_stores_only_where_there_is_no_value(cache: AsyncRedisCache, raw: Client) -> None:
    """The first value stays with its TTL; after a removal there is room again."""
    assert await cache.add(None, "a", "first", 60_000) is True
    assert await cache.add(None, "a", "second", 1_000) is False
    assert await cache.retrieve(None, "a") == "first"
    assert raw.pttl(f"{PREFIX}a") > 1_000
    await cache.remove(None, "a")
    assert await cache.add(None, "a", "third") is True


async def test_add_supersedes_a_load(server: Server) -> None:
    """The placeholder of a load is no value, and the load does not overwrite the added one."""
    async with (
        configured(server.url, key_prefix=PREFIX) as loading,
        configured(server.url, key_prefix=PREFIX) as adding,
    ):
        loads, added = asyncio.Event(), asyncio.Event()

        async def load() -> str:
            loads.set()
            await added.wait()
            return "loaded"

        task = asyncio.create_task(loading.retrieve_or_load(None, "a", load))
        await loads.wait()
        assert await adding.add(None, "a", "added") is True
        added.set()
        await task
        assert await adding.retrieve(None, "a") == "added"


async def test_add_counts_loaded_value_and_replaces_missing_one(cache: AsyncRedisCache) -> None:
    """A loaded value is a value; that the origin has none is not one."""
    await cache.retrieve_or_load(None, "a", lambda: "loaded")
    assert await cache.add(None, "a", "added") is False
    await cache.retrieve_or_load(None, "b", lambda: None, missing_timeout=60_000)
    assert await cache.add(None, "b", "added") is True
    assert await cache.retrieve(None, "b") == "added"


async def test_add_refuses_none(cache: AsyncRedisCache) -> None:
    """None is no value."""
    with pytest.raises(CacheInputError) as failed:
        await cache.add(None, "a", None)
    assert failed.value.code == "NOT_SERIALIZABLE"


async def test_incr_counts_from_zero_and_keeps_the_ttl(cache: AsyncRedisCache, raw: Client) -> None:
    """The TTL is that of the first increment; `retrieve` returns the integer."""
    assert await cache.incr(None, "n", timeout=60_000) == 1
    assert await cache.incr(None, "n", 41, 1_000) == 42
    assert raw.pttl(f"{PREFIX}n") > 1_000
    assert await cache.decr(None, "n", 50) == -8
    assert await cache.retrieve(None, "n", type=int) == -8
    await cache.store(None, "m", 7)
    assert await cache.incr(None, "m") == 8


async def test_incr_is_exact_up_to_64_bits(cache: AsyncRedisCache) -> None:
    """Results are not rounded; one that would not fit changes nothing."""
    most = 2**63 - 1
    assert await cache.incr(None, "n", most - 1) == most - 1
    assert await cache.incr(None, "n") == most
    with pytest.raises(CacheServerError) as failed:
        await cache.incr(None, "n")
    assert failed.value.code == "OVERFLOW"
    assert await cache.retrieve(None, "n") == most
    assert await cache.decr(None, "low", most) == -most


@pytest.mark.parametrize("amount", [1.0, True, "1", 2**63])
async def test_incr_refuses_an_amount_that_is_no_integer(
    cache: AsyncRedisCache, amount: int
) -> None:
    """Nothing is sent."""
    with pytest.raises(CacheInputError) as failed:
        await cache.incr(None, "n", amount)
    assert failed.value.code == "BAD_AMOUNT"


async def test_incr_refuses_a_value_of_another_kind(cache: AsyncRedisCache, raw: Client) -> None:
    """Text, a loaded value and another type of the server stay as they are."""
    await cache.store(None, "text", "a")
    await cache.retrieve_or_load(None, "loaded", lambda: 5)
    raw.rpush(f"{PREFIX}list", "a")
    for key in ("text", "loaded", "list"):
        with pytest.raises(CacheServerError) as failed:
            await cache.incr(None, key)
        assert failed.value.code == "WRONGTYPE"
    assert await cache.retrieve(None, "text") == "a"
    assert await cache.retrieve(None, "loaded") == 5


@pytest.mark.parametrize("options", [{"serializer": "msgpack"}, {"signing_key": "k" * 32}])
async def test_incr_refuses_formats_that_the_server_cannot_write(
    server: Server, options: dict[str, str]
) -> None:
    """The server writes decimal digits: in MessagePack, and with a signature, they are another value or none."""
    async with configured(server.url, key_prefix=PREFIX, **options) as cache:
        with pytest.raises(CacheUnsupported):
            await cache.incr(None, "n")


async def test_bound_holds(server: Server, raw: Client) -> None:
    """Added values and counters are in the index, and values beyond the bound are evicted and counted."""
    async with configured(server.url, key_prefix=PREFIX, max_size=3) as cache:
        for number in range(4):
            assert await cache.add(None, f"a{number}", number, 30_000 + 1_000 * number)
            assert await cache.incr(None, f"n{number}", 1, 60_000 + 1_000 * number) == 1
        left = {key for key in raw.keys(f"{PREFIX}*") if key != INDEX.encode()}
        assert left == {f"{PREFIX}n{number}".encode() for number in (1, 2, 3)}
        assert left == set(raw.zrange(INDEX, 0, -1))
        assert cache.stats().evictions == 5


async def test_near_cache_reads_what_was_counted(server: Server) -> None:
    """A task that has awaited an increment reads its result, not the local entry."""
    async with configured(server.url, key_prefix=PREFIX, near_cache_enabled=True) as cache:
        for number in range(1, 20):
            assert await cache.incr(None, "n") == number
            assert await cache.retrieve(None, "n") == number
            assert await cache.retrieve(None, "n") == number


@pytest.mark.parametrize("method", ["add", "incr"])
async def test_one_call_is_one_round_trip(server: Server, method: str) -> None:
    """Also where the value exists."""
    async with configured(server.url, key_prefix=PREFIX) as cache:
        for _ in range(3):
            before = cache.stats().round_trips
            await (cache.add(None, "a", 1) if method == "add" else cache.incr(None, "a"))
            assert cache.stats().round_trips == before + 1


async def test_concurrent_calls_are_each_executed(server: Server) -> None:
    """Increments that share a pipeline are not merged."""
    async with configured(server.url, key_prefix=PREFIX) as cache:
        results = await asyncio.gather(*(cache.incr(None, "n") for _ in range(500)))
        assert sorted(results) == list(range(1, 501))
        added = await asyncio.gather(*(cache.add(None, "a", n) for n in range(500)))
        assert added.count(True) == 1


async def test_no_increment_is_executed_twice(
    server: Server, proxy: StartProxy, raw: Client
) -> None:
    """10. When the reply is lost after execution, the outcome is unknown and the command is not sent again."""
    network = proxy(server)
    async with configured(network.url, key_prefix=PREFIX, retries=3) as cache:
        await cache.incr(None, "n")
        for turn in range(1, 6):
            network.swallow_replies(command="EVALSHA")
            with pytest.raises(CacheOutcomeUnknown):
                await cache.incr(None, "n")
            assert raw.get(f"{PREFIX}n") == b"%d" % (turn + 1)
        # The key is not removed either, which would reset the counter.
        assert await cache.incr(None, "n") == 7
