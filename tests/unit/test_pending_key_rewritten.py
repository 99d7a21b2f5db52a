"""A key with a pending invalidation is changed again: until that succeeds, the old value is not read."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from async_redis_cache import AsyncRedisCache
from harness import await_until
from harness.apis import configured
from harness.scripted_server import ScriptedServer

REFUSED = b"-NOREPLICAS Not enough good replicas to write.\r\n"
OLD = b'"old"'
READS: dict[str, Callable[[AsyncRedisCache], Awaitable[Any]]] = {
    "retrieve": lambda cache: cache.retrieve(None, "key"),
    "retrieve_many": lambda cache: cache.retrieve_many(None, ["key"]),
    "retrieve_or_load": lambda cache: cache.retrieve_or_load(None, "key", lambda: "new"),
    "contains": lambda cache: cache.contains(None, "key"),
}


@pytest.mark.parametrize("read", READS)
async def test_pending_key_is_not_read_while_it_is_rewritten(read: str) -> None:
    """The second change may be refused as the first was, so what both replace is not returned meanwhile."""
    async with (
        ScriptedServer(
            MGET=b"*1\r\n$%d\r\n%s\r\n" % (len(OLD), OLD),
            EVAL=b"$%d\r\n%s\r\n" % (len(OLD), OLD),
            SET=REFUSED,
            UNLINK=REFUSED,
        ) as server,
        configured(server.url, fail_open="always", max_size=0, command_timeout=300) as cache,
    ):
        assert await cache.store(None, "key", "new") == "new"
        assert cache.stats().pending_invalidations == 1
        server.answers["SET"] = b""  # The second is under way, and stays so.
        sent = server.asked("SET")
        change = asyncio.ensure_future(cache.store(None, "key", "newer"))
        await await_until(lambda: server.asked("SET") > sent)
        assert await READS[read](cache) in (None, {}, "new", False)
        await change


async def test_pending_key_is_not_removed_while_it_is_rewritten() -> None:
    """Its removal could come after the value that is being stored."""
    async with (
        ScriptedServer(SET=REFUSED, UNLINK=REFUSED) as server,
        configured(server.url, fail_open="always", max_size=0, command_timeout=60_000) as cache,
    ):
        await cache.store(None, "key", "new")
        server.answers["SET"] = b""
        sent = server.asked("SET")
        change = asyncio.ensure_future(cache.store(None, "key", "newer"))
        await await_until(lambda: server.asked("SET") > sent)
        removals = server.asked("UNLINK")
        await asyncio.sleep(1)  # Twice the longest pause between two attempts to remove it.
        assert server.asked("UNLINK") == removals
        change.cancel()
        await await_until(lambda: server.asked("UNLINK") > removals)
