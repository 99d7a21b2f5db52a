"""What `docs/how-to/from-aiocache.md` says about aiocache is what aiocache does."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import time
from dataclasses import dataclass
from importlib import import_module
from typing import TYPE_CHECKING, Any

import pytest
import redis

from async_redis_cache import AsyncRedisCache, CacheError
from harness import await_until

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from harness import Client, Proxy, Server, StartProxy, StartServer

# It calls functions of redis-py that are deprecated.
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")
aiocache: Any = import_module("aiocache")
Json: Any = import_module("aiocache.serializers").JsonSerializer

CONCURRENT = 100
TWO_PROCESSES = """
import asyncio, sys
from aiocache import Cache, cached_stampede
port, = map(int, sys.argv[1:])
@cached_stampede(lease=30, ttl=60, key="report", cache=Cache.REDIS, port=port)
async def report():
    print("calls", flush=True)
    await asyncio.to_thread(input)
    return 1
async def main():
    await report()
    await report.cache.close()
asyncio.run(main())
"""


class Caches:
    """Makes caches of the server, and counts the calls of the functions that they cache."""

    def __init__(self, server: Server | Proxy) -> None:
        self.address = {"endpoint": server.host, "port": server.port, "namespace": "ns"}
        self.made: list[Any] = []
        self.calls = 0

    def cache(self, **options: Any) -> Any:
        self.made.append(aiocache.Cache(aiocache.Cache.REDIS, **self.address, **options))
        return self.made[-1]

    def cached(self, function: Any, decorator: Any = aiocache.cached, **options: Any) -> Any:
        async def counting(*args: Any, **kwargs: Any) -> Any:
            self.calls += 1
            return await function(*args, **kwargs)

        options = {"cache": aiocache.Cache.REDIS, **self.address, "serializer": Json(), **options}
        decorated = decorator(**options)(counting)
        self.made.append(decorated.cache)
        return decorated


@pytest.fixture
async def caches(server: Server) -> AsyncIterator[Caches]:
    caches = Caches(server)
    yield caches
    for cache in caches.made:
        await cache.close()


async def slow(number: int = 7) -> int:
    await asyncio.sleep(0.05)
    return number


async def test_value_without_ttl_never_expires(caches: Caches, raw: Client) -> None:
    """So do counters."""
    await caches.cache().set("key", 1)
    await caches.cache().increment("counter")
    assert (raw.ttl("ns:key"), raw.ttl("ns:counter")) == (-1, -1)


async def test_concurrent_calls_all_call_the_function(caches: Caches, raw: Client) -> None:
    """Each with a connection of its own."""

    async def load() -> int:
        await await_until(lambda: caches.calls == CONCURRENT)
        return 1

    find = caches.cached(load, ttl=60, key="key")
    before = raw.info("clients")["connected_clients"]
    await asyncio.gather(*(find() for _ in range(CONCURRENT)))
    assert raw.info("clients")["connected_clients"] - before == CONCURRENT


async def test_stampede_decorator_calls_seldom_in_a_process(caches: Caches) -> None:
    """Usually once while its lease lasts: a caller that is refused the lock before its owner knows of it calls too."""
    find = caches.cached(slow, aiocache.cached_stampede, ttl=60, key="key", lease=30)
    await asyncio.gather(*(find() for _ in range(CONCURRENT)))
    assert 1 <= caches.calls < CONCURRENT


def test_stampede_decorator_does_not_wait_for_another_process(server: Server) -> None:
    """A second process calls the function while the first one does, within its lease."""
    command = [sys.executable, "-c", TWO_PROCESSES, str(server.port)]
    pipe = subprocess.PIPE
    with (
        subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True) as one,
        subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True) as other,
    ):
        assert one.stdout and other.stdout  # noqa: PT018  pipes, as asked for
        assert [one.stdout.readline(), other.stdout.readline()] == ["calls\n", "calls\n"]
        one.communicate("\n")
        other.communicate("\n")


async def test_value_deleted_while_it_is_loaded_is_stored(caches: Caches) -> None:
    """The old value stays until it expires; here it is not stored."""
    loading, change = asyncio.Event(), asyncio.Event()

    async def load() -> str:
        loading.set()
        await change.wait()
        return "old"

    find = caches.cached(load, ttl=60, key="key")
    call = asyncio.create_task(find())
    await loading.wait()
    await caches.cache().delete("key")
    change.set()
    await call
    assert await caches.cache(serializer=Json()).get("key") == "old"


async def test_none_is_stored_and_read_as_a_miss(caches: Caches, raw: Client) -> None:
    """Each call calls the function."""

    async def none() -> None:
        pass

    find = caches.cached(none, ttl=60, key="key")
    assert [await find(), await find()] == [None, None]
    assert (caches.calls, raw.get("ns:key")) == (2, b"null")


@dataclass
class Product:
    """A value that the module json does not serialize."""

    name: str


async def test_dataclass_is_not_stored_and_logged(
    caches: Caches, raw: Client, caplog: pytest.LogCaptureFixture
) -> None:
    """Each call calls the function, and logs the value."""

    async def load() -> Product:
        return Product("secret kettle")

    find = caches.cached(load, ttl=60, key="key")
    assert [await find(), await find()] == [Product("secret kettle")] * 2
    assert (caches.calls, raw.get("ns:key")) == (2, None)
    assert "secret kettle" in caplog.text


async def test_tuple_is_a_list_when_it_comes_from_the_cache(caches: Caches) -> None:
    """Here both calls return the same."""

    async def pair() -> tuple[int, int]:
        return 1, 2

    find = caches.cached(pair, ttl=60, key="key")
    assert [await find(), await find()] == [(1, 2), [1, 2]]


async def test_spellings_of_a_call_have_different_keys(caches: Caches) -> None:
    """By position, by name, and with a default value."""

    async def find_product(number: int, version: int = 1) -> int:
        return number + version

    find = caches.cached(find_product, ttl=60)
    await find(7)
    await find(number=7)
    await find(7, 1)
    assert caches.calls == 3


async def test_clear_of_a_namespace_flushes_the_database(caches: Caches, raw: Client) -> None:
    """Unless the namespace is passed once more."""
    raw.mset({"ns:key": 1, "other": 1})
    await caches.cache().clear(namespace="ns")
    assert raw.keys() == [b"other"]
    await caches.cache().clear()
    assert raw.keys() == []


async def test_add_raises_when_there_is_a_value(caches: Caches) -> None:
    """Here it returns False."""
    await caches.cache().add("key", 1)
    with pytest.raises(ValueError, match="already exists"):
        await caches.cache().add("key", 1)


async def test_cached_call_waits_twice_for_a_frozen_server(
    private_server: StartServer,
) -> None:
    """For the time limit of a command each, 5 seconds by default; here scaled down."""
    limit = 0.2
    server = private_server()
    caches = Caches(server)
    find = caches.cached(slow, ttl=60, key="key", timeout=limit)
    await find.cache.exists("key")
    server.freeze()
    started = time.monotonic()
    assert await find() == 7
    assert time.monotonic() - started >= 2 * limit
    server.thaw()
    assert caches.cache().timeout == 5
    for cache in caches.made:
        await cache.close()


async def test_failed_deletion_is_forgotten(server: Server, proxy: StartProxy) -> None:
    """The old value is served when the server is reachable again; here its removal is pending."""
    link = proxy(server)
    cache = Caches(link).cache()
    await cache.set("key", "old")
    async with AsyncRedisCache.from_url(link.url) as ours:
        values = ours.namespace("ours", ttl=60)
        await values.set("key", "old")
        link.refuse()
        link.cut()
        with pytest.raises(redis.ConnectionError):
            await cache.delete("key")
        with pytest.raises(CacheError):
            await values.delete("key")
        link.heal()
        assert await cache.get("key") == "old"
        assert await values.get("key") is None
    await cache.close()
