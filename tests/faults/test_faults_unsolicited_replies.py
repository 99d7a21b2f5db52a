"""An unsolicited reply is never used as the reply to a command."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from async_redis_cache import AsyncRedisCache
from async_redis_cache._connection.connection import RedisConnection
from harness import Certificates, Proxy, Server, StartProxy, await_until
from harness.figures import report

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Coroutine

pytestmark = pytest.mark.depends_on()

ROUNDS = 100
# The forms that the answers of all operations have, each of which another reply could be taken for.
STRAYS = [
    b'*1\r\n$7\r\n"wrong"\r\n',
    b'$7\r\n"wrong"\r\n',
    b"*1\r\n$-1\r\n",
    b"+OK\r\n",
    b":7\r\n",
    b"-ERR wrong\r\n",
]


@pytest.fixture(params=["plain", "tls"])
def network(
    server: Server, proxy: StartProxy, certificates: Certificates, request: pytest.FixtureRequest
) -> Proxy:
    return proxy(server, tls=certificates.server_context() if request.param == "tls" else None)


@pytest.fixture
async def cache(network: Proxy, certificates: Certificates) -> AsyncIterator[AsyncRedisCache]:
    ca_file = str(certificates.ca_file) if network.url.startswith("rediss") else ""
    cache = AsyncRedisCache.from_url(network.url, max_size=0, tls_ca_file=ca_file)
    await cache.open(None)
    yield cache
    await cache.close(None)


async def plant(network: Proxy, stray: bytes) -> None:
    """Send it on the idle connection; the cache's loop has not read it when this returns."""
    # The proxy may not have seen yet that the last call was answered.
    await await_until(lambda: network.inject(stray))


async def is_served_wrongly(cache: AsyncRedisCache, network: Proxy, number: int) -> bool:
    """Whether the next call gets the planted reply."""
    await cache.store(None, "key", "right")
    questions: list[tuple[Coroutine[Any, Any, Any], Any]] = [
        (cache.retrieve(None, "key"), "right"),
        (cache.retrieve_many(None, ["key"]), {"key": "right"}),
        (cache.store(None, "key", "new"), "new"),
        (cache.contains(None, "key"), True),
        (cache.remove(None, "key"), "right"),
        (cache.remove_many(None, ["key"]), 1),
        (cache.touch(None, "key"), True),
    ]
    await plant(network, STRAYS[number % len(STRAYS)])
    asked, expected = questions.pop(number % len(questions))
    for other, _ in questions:
        other.close()
    return bool(await asked != expected)


@pytest.mark.no_leaks
async def test_unsolicited_reply_is_not_used(cache: AsyncRedisCache, network: Proxy) -> None:
    """2. An unread reply planted on an idle connection is served in 0 of 100 cases, and no call fails."""
    wrong = [number for number in range(ROUNDS) if await is_served_wrongly(cache, network, number)]
    report(2, f"{len(wrong)} of {ROUNDS} served, {network.opened} connections", len(wrong))
    assert wrong == []
    assert cache.stats().errors == 0


async def test_buffered_unsolicited_reply_is_not_used(
    cache: AsyncRedisCache, network: Proxy
) -> None:
    """Nor is one that arrives while the loop looks: the connection is ended at once."""
    await cache.store(None, "key", "right")
    for stray in STRAYS:
        opened = network.opened
        await plant(network, stray)
        await await_until(lambda: network.open_now == 0)
        assert await cache.retrieve(None, "key") == "right"
        assert network.opened == opened + 1


async def test_unsolicited_reply_is_used_without_the_socket_check(
    cache: AsyncRedisCache, network: Proxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    """2, the proof: without the check of a connection before its use, the planted reply is served."""

    def trust(_: RedisConnection) -> bool:
        return False

    monkeypatch.setattr(RedisConnection, "has_unread", trust)
    await cache.store(None, "key", "right")
    # Together with the right answer it would be one too many, and found out.
    network.black_hole("to_server")
    await plant(network, STRAYS[0])
    assert await cache.retrieve(None, "key") == "wrong"
