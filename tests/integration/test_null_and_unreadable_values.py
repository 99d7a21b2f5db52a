"""Which stored bytes are a value: all methods agree about null and unreadable data."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any

import pytest

from async_redis_cache import AsyncRedisCache
from async_redis_cache._protocol.record import with_tags
from harness.apis import APIS, Api, configured

if TYPE_CHECKING:
    from harness import Client, Server

pytestmark = pytest.mark.depends_on("api")

VALUES: list[bytes] = [b"0", b"false", b'""', b"[]", b'{"a":null}', b" 1 "]
NO_VALUES: dict[str, list[bytes]] = {
    "null": [b"null", b" null\n", with_tags(b"null", {}, 0, 60_000)],
    "garbage": [
        b"",
        b"ABC",
        b'{"a":',
        b"\xff",
        b"\xc1",
        b"\xc1\x01\x00",
        b"\xc1\x02v",
        b"NaN",
        b"[" * 100_000,
        b'"' + b"x" * 2_000,
        with_tags(b"ABC", {}, 0, 60_000),
    ],
}
MODES: dict[str, dict[str, Any]] = {
    "unbounded": {"max_size": 0},
    "bounded": {"max_size": 100},
    "near": {"max_size": 0, "near_cache_enabled": True},
}


async def _said(cache: AsyncRedisCache, key: str) -> dict[str, bool]:
    """Whether there is a value, by each method that says so; the last of them removes it."""
    entry = await cache.retrieve_entry(None, key)
    return {
        "retrieve": await cache.retrieve(None, key) is not None,
        "retrieve again": await cache.retrieve(None, key) is not None,
        "retrieve_many": bool(await cache.retrieve_many(None, [key])),
        "retrieve_entry": entry.status != "missing",
        "contains": await cache.contains(None, key),
        "touch": await cache.touch(None, key, 50_000),
        "time_to_live": await cache.time_to_live(None, key) is not None,
        "contains after touch": await cache.contains(None, key),
        "remove": await cache.remove(None, key) is not None,
    }


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("kind", ["value", *NO_VALUES])
async def test_methods_agree_whether_there_is_a_value(
    server: Server, raw: Client, mode: str, kind: str
) -> None:
    """Null and unreadable data are no values; falsy Python values are."""
    async with configured(server.url, key_prefix="is:", **MODES[mode]) as cache:
        for number, stored in enumerate(NO_VALUES.get(kind, VALUES)):
            raw.set(f"is:{number}", stored, px=60_000)
            said = await _said(cache, f"{number}")
            assert said == dict.fromkeys(said, kind == "value"), stored
        assert bool(cache.stats().unreadable) is (kind == "garbage")
        await cache.clear(None)


@pytest.mark.parametrize("api", APIS)
async def test_sync_api_treats_null_alike(server: Server, raw: Client, api: Api) -> None:
    """Both APIs say the same, and what is loaded instead is stored."""
    async with configured(server.url, api, key_prefix="is:") as cache:
        raw.set("is:key", b"null", px=60_000)
        assert await cache.contains(None, "key") is False
        assert await cache.touch(None, "key") is False
        assert await cache.time_to_live(None, "key") is None
        assert await cache.retrieve_or_load(None, "key", lambda: 5) == 5
        assert await cache.contains(None, "key") is True
        await cache.clear(None)


async def test_asking_for_a_value_takes_no_more_trips_than_before(server: Server) -> None:
    """One, and in a cache without a bound another to touch it."""
    calls: list[tuple[Callable[[AsyncRedisCache], Awaitable[Any]], int]]
    for mode, trips_of_touch in (("unbounded", 2), ("bounded", 1)):
        calls = [
            (lambda cache: cache.contains(None, "key"), 1),
            (lambda cache: cache.time_to_live(None, "key"), 1),
            (lambda cache: cache.touch(None, "key"), trips_of_touch),
        ]
        async with configured(server.url, key_prefix="is:", **MODES[mode]) as cache:
            await cache.store(None, "key", 1)
            for call, expected in calls:
                before = cache.stats().round_trips
                assert await call(cache)
                assert cache.stats().round_trips - before == expected
            await cache.clear(None)
