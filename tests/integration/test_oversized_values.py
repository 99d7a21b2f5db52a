"""Foreign values beyond the reply bound fail their own key only."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest

from async_redis_cache import AsyncRedisCache, CacheServerError
from harness import StartServer, await_until
from harness.apis import APIS, Api, configured
from harness.loop_errors import no_loop_errors
from harness.scripted_server import ScriptedServer

if TYPE_CHECKING:
    from harness import Client, Server

pytestmark = pytest.mark.depends_on("api")

PREFIX = "oversized:"
LIMIT = 1000
KEYS = [f"key{number}" for number in range(20)]
BIG = 20 * 256 * 1024
"""Bytes: more than the replies for all keys together may have."""


@pytest.fixture
def server(private_server: StartServer) -> Server:
    return private_server()


@pytest.fixture
def raw(server: Server) -> Client:
    """A client of a server that holds a small value under each key, and too large ones under two."""
    raw = server.client()
    raw.mset({f"{PREFIX}{key}": key[3:] for key in KEYS})
    for key in ("key3", "key17"):
        raw.set(f"{PREFIX}{key}", b"x" * BIG)
    return raw


@pytest.fixture
def options() -> dict[str, Any]:
    return {"key_prefix": PREFIX, "max_value_size": LIMIT, "command_timeout": 20_000}


def others() -> dict[str, int]:
    return {key: int(key[3:]) for key in KEYS if key not in {"key3", "key17"}}


@pytest.mark.parametrize("api", APIS)
@pytest.mark.parametrize("near", [False, True])
@pytest.mark.usefixtures("raw")
async def test_retrieve_many_returns_the_others_when_some_are_too_large(
    server: Server, options: dict[str, Any], api: Api, near: bool
) -> None:
    """What is too large is a miss, and counted as unreadable; it fails the call for no other key."""
    async with configured(server.url, api, near_cache_enabled=near, **options) as cache:
        with no_loop_errors():
            assert await cache.retrieve_many(None, KEYS) == others()
        assert cache.stats().unreadable == 2


async def test_load_many_loads_what_is_too_large_to_be_read(
    server: Server, raw: Client, options: dict[str, Any]
) -> None:
    """They are loaded, as other unreadable values are; the others are not."""
    loaded: list[str] = []

    async def load(keys: list[str]) -> dict[str, int]:
        loaded.extend(keys)
        return {key: int(key[3:]) for key in keys}

    async with configured(server.url, **options) as cache:
        found = await cache.retrieve_or_load_many(None, KEYS, load)
        assert found == {key: int(key[3:]) for key in KEYS}
        assert sorted(loaded) == ["key17", "key3"]


@pytest.mark.usefixtures("raw")
async def test_retrieve_many_raises_when_its_only_key_is_too_large(
    server: Server, options: dict[str, Any]
) -> None:
    """A call for one key gets the error, as `retrieve` does."""
    async with configured(server.url, **options) as cache:
        with pytest.raises(CacheServerError) as caught:
            await cache.retrieve_many(None, ["key3"])
        assert caught.value.code == "REPLY_TOO_LARGE"


@pytest.mark.parametrize("max_size", [0, 100])
async def test_remove_raises_too_large_when_the_value_cannot_be_returned(
    server: Server, raw: Client, options: dict[str, Any], max_size: int
) -> None:
    """The value is removed, so the outcome is not unknown: it cannot be returned."""
    async with configured(server.url, max_size=max_size, **options) as cache:
        with pytest.raises(CacheServerError) as caught:
            await cache.remove(None, "key3")
        assert caught.value.code == "REPLY_TOO_LARGE"
        assert raw.exists(f"{PREFIX}key3") == 0
        await await_until(lambda: cache.stats().pending_invalidations == 0)


async def test_reading_in_halves_ends_when_every_reply_is_too_large(
    options: dict[str, Any],
) -> None:
    """A server whose every reply is too large gets a bounded number of requests, and all keys are misses."""
    reply = b"*1\r\n$9000000\r\n" + b"x" * 9_000_000
    async with ScriptedServer(MGET=reply) as server:
        cache: AsyncRedisCache = configured(server.url, retries=0, **options)
        async with cache, asyncio.timeout(60):
            assert await cache.retrieve_many(None, KEYS[:4]) == {}
            assert server.asked("MGET") == 7
