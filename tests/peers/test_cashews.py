"""What `docs/how-to/from-cashews.md` says about cashews is what cashews does."""

from __future__ import annotations

import asyncio
import time
from importlib import import_module
from typing import TYPE_CHECKING, Any, TypeVar

import pytest

from async_redis_cache import AsyncRedisCache, CacheError
from harness import await_until

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from harness import Client, Proxy, Server, StartProxy, StartServer

# It calls functions of redis-py that are deprecated.
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")
Cache: Any = import_module("cashews").Cache

F = TypeVar("F", bound="Callable[..., Any]")

CONCURRENT = 100


def cached(cache: Any, **options: Any) -> Callable[[F], F]:
    """Return the decorator of a cache; it is untyped where cashews is not installed."""
    decorate: Callable[[F], F] = cache(**options)
    return decorate


async def cache_of(server: Server | Proxy, **options: Any) -> Any:
    cache = Cache()
    cache.setup(server.url, **options)
    await cache.ping()
    return cache


@pytest.fixture
async def cache(server: Server) -> AsyncIterator[Any]:
    cache = await cache_of(server)
    yield cache
    await cache.close()


async def test_values_without_expire_never_expire(cache: Any, raw: Client) -> None:
    """Nor do counters."""
    await cache.set("key", 1)
    await cache.incr("counter")
    assert (raw.ttl("key"), raw.ttl("counter")) == (-1, -1)


async def test_expire_of_a_counter_applies_to_a_result_of_one_only(cache: Any, raw: Client) -> None:
    """A new counter that begins with 5 never expires."""
    await cache.incr("one", 1, expire=60)
    await cache.incr("five", 5, expire=60)
    assert 0 < raw.ttl("one") <= 60
    assert raw.ttl("five") == -1


async def test_none_is_stored(cache: Any) -> None:
    """The function is not called again."""
    calls: list[int] = []

    @cached(cache, ttl=60, key="key")
    async def none() -> Any:
        calls.append(1)

    assert [await none(), await none()] == [None, None]
    assert calls == [1]


async def test_processes_call_each_for_itself(server: Server) -> None:
    """The calls of one cache share a call of the function; those of another, as of another process, do not."""
    calls: list[int] = []
    caches = [await cache_of(server), await cache_of(server)]

    def cached_by(cache: Any) -> Any:
        @cached(cache, ttl=60, key="key")
        async def load() -> int:
            calls.append(1)
            await await_until(lambda: len(calls) == len(caches))
            return 1

        return load

    loads = [cached_by(cache) for cache in caches]
    await asyncio.gather(*(load() for load in loads for _ in range(CONCURRENT)))
    assert len(calls) == len(caches)
    for cache in caches:
        await cache.close()


async def test_get_or_set_is_not_shared(cache: Any) -> None:
    """Each call that misses calls the function."""
    calls: list[int] = []

    async def load() -> int:
        calls.append(1)
        await await_until(lambda: len(calls) == CONCURRENT)
        return 1

    await asyncio.gather(*(cache.get_or_set("key", load, expire=60) for _ in range(CONCURRENT)))


@pytest.mark.parametrize("by_tag", [False, True])
async def test_value_deleted_while_it_is_loaded_is_stored(cache: Any, by_tag: bool) -> None:
    """The old value stays until it expires; here it is not stored."""

    @cached(cache, ttl=60, key="key", tags=["tag"])
    async def load() -> str:
        await (cache.delete_tags("tag") if by_tag else cache.delete("key"))
        return "old"

    await load()
    assert await cache.get("key") == "old"


async def test_text_moves_from_one_field_of_a_template_into_the_next(cache: Any) -> None:
    """The second call returns the result of the first; here it does not."""

    async def load(a: str, b: str) -> list[str]:
        return [a, b]

    theirs = cache(ttl=60, key="pair:{a}:{b}")(load)
    assert [await theirs("x:y", "z"), await theirs("x", "y:z")] == [["x:y", "z"], ["x:y", "z"]]
    async with AsyncRedisCache.from_url("fake://") as our_cache:
        ours = our_cache.namespace("pair", ttl=60).cached("{a}:{b}")(load)
        assert [await ours("x:y", "z"), await ours("x", "y:z")] == [["x:y", "z"], ["x", "y:z"]]


@pytest.mark.parametrize(("one", "other"), [(None, ""), (1, "1")])
async def test_different_arguments_share_a_key(cache: Any, one: Any, other: Any) -> None:
    """Those with the same text, in keys made from the arguments."""

    @cached(cache, ttl=60)
    async def load(argument: Any) -> list[Any]:
        return [argument]

    assert [await load(one), await load(other)] == [[one], [one]]


async def test_tuple_is_a_tuple(cache: Any, raw: Client) -> None:
    """Values are pickled, and signed only with a secret."""
    await cache.set("key", (1, 2))
    assert await cache.get("key") == (1, 2)
    assert (raw.get("key") or b"").startswith(b"\x80")


async def test_lock_is_lost_when_its_holder_takes_longer(cache: Any, raw: Client) -> None:
    """Another holder enters meanwhile, and the first one ends without an error."""
    async with cache.lock("key", expire=0.05):
        await await_until(lambda: not raw.exists("key"))
        async with cache.lock("key", expire=60):
            pass


async def test_clear_flushes_the_database(cache: Any, raw: Client) -> None:
    """Keys of other programs too."""
    raw.set("other", 1)
    await cache.clear()
    assert raw.keys() == []


async def test_cached_call_waits_twice_for_a_frozen_server(private_server: StartServer) -> None:
    """For the time limit of a command each, which is 1 second by default; here scaled down."""
    limit = 0.2
    server = private_server()
    cache = await cache_of(server, socket_timeout=limit)

    @cached(cache, ttl=60, key="key")
    async def load() -> int:
        return 1

    server.freeze()
    for _ in range(2):
        started = time.monotonic()
        assert await load() == 1
        assert time.monotonic() - started >= 2 * limit
    server.thaw()
    await cache.close()
    default = await cache_of(server)
    (backend,) = default._backends.values()
    assert backend._client.connection_pool.connection_kwargs["socket_timeout"] == 1
    await default.close()


async def test_failed_deletion_is_forgotten(server: Server, proxy: StartProxy) -> None:
    """It returns False, and the old value is served afterwards; here its removal is pending."""
    link = proxy(server)
    cache = await cache_of(link)
    await cache.set("key", "old")
    async with AsyncRedisCache.from_url(link.url) as ours:
        values = ours.namespace("ours", ttl=60)
        await values.set("key", "old")
        link.refuse()
        link.cut()
        assert await cache.delete("key") is False
        with pytest.raises(CacheError):
            await values.delete("key")
        link.heal()
        assert await cache.get("key") == "old"
        assert await values.get("key") is None
    await cache.close()
