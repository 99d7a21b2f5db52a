"""Inspect near caches: compare their entries with the values on the server."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from async_redis_cache._client import standalone as _single
from async_redis_cache._connection.connector import Connector
from harness.waiting import await_until

if TYPE_CHECKING:
    from collections.abc import Mapping

    import pytest

    from async_redis_cache import AsyncRedisCache
    from async_redis_cache._common.endpoint import Endpoint
    from async_redis_cache._common.options import Options
    from async_redis_cache._engine.near_cache import NearCache
    from harness.clients import Client

SENTINEL = "sentinel"
HEARTBEAT_SECONDS = 0.100


def near_options(prefix: str, **options: object) -> dict[str, Any]:
    """Options of a near cache with a short keepalive interval."""
    return {
        "key_prefix": prefix,
        "near_cache_enabled": True,
        "near_cache_heartbeat": int(HEARTBEAT_SECONDS * 1000),
        "connect_timeout": 10_000,
    } | options


def link_through(port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Connect invalidation channels to this port from now on; calls still go where the URL says."""

    def dialer(endpoint: Endpoint, options: Options, *, protocol: int = 2) -> Connector:
        # Only the invalidation channel speaks RESP3.
        return Connector(
            replace(endpoint, port=port) if protocol == 3 else endpoint, options, protocol=protocol
        )

    monkeypatch.setattr(_single, "Connector", dialer)


def near_of(cache: AsyncRedisCache) -> NearCache:
    """The near cache of an open cache."""
    near = cache._lifecycle.ready().engine._near
    assert near is not None
    return near


def stale_entries(cache: AsyncRedisCache, raw: Client) -> list[bytes]:
    """The keys whose local data differs from the data on the server."""
    entries = near_of(cache)._entries
    held = {key: entry.data for key, entry in entries.items()}
    if not held:
        return []
    there: list[bytes | None] = raw.mget(list(held))
    return [key for (key, data), now in zip(held.items(), there, strict=True) if data != now]


async def trusted(cache: AsyncRedisCache, seconds: float = 60.0) -> None:
    """Wait until the invalidation channel is connected."""
    await await_until(lambda: cache.stats().near_connected, seconds)


async def all_news_is_in(cache: AsyncRedisCache, raw: Client, prefix: str) -> None:
    """Wait until the invalidations of all earlier writes have arrived; they come in the order of the writes."""
    near = near_of(cache)
    sentinel = f"{prefix}{SENTINEL}".encode()
    raw.set(sentinel, b"1")
    # A lost channel drops the marker entry too.
    while sentinel not in near._entries:
        await trusted(cache)
        await cache.retrieve(None, SENTINEL)
    raw.set(sentinel, b"2")
    await await_until(lambda: sentinel not in near._entries)


async def hold(
    cache: AsyncRedisCache, raw: Client, prefix: str, values: Mapping[str, object]
) -> None:
    """Store these values on the server and read them until the cache holds them locally."""
    raw.mset({prefix + key: json.dumps(value) for key, value in values.items()})
    await all_news_is_in(cache, raw, prefix)
    wire_keys = {(prefix + key).encode() for key in values}
    entries = near_of(cache)._entries
    # One round, unless the channel is lost meanwhile: an invalidation during the request would prevent the fill.
    while not wire_keys <= entries.keys():
        await trusted(cache)
        assert await cache.retrieve_many(None, values) == values


async def comes_back(cache: AsyncRedisCache, raw: Client, prefix: str) -> None:
    """Check that the channel works again: values are held locally, and removed when they change."""
    await trusted(cache)
    keys = [f"back{number}" for number in range(10)]
    await hold(cache, raw, prefix, dict.fromkeys(keys, "one"))
    await hold(cache, raw, prefix, dict.fromkeys(keys, "two"))
    assert await cache.retrieve_many(None, keys) == dict.fromkeys(keys, "two")
    assert stale_entries(cache, raw) == []
