"""Near caches of loops that end without a close, and of forked children."""

from __future__ import annotations

import asyncio
import gc
import json
import logging
from typing import TYPE_CHECKING, Any

import pytest

from async_redis_cache import AsyncRedisCache
from harness import Client, Server
from harness.near_waiting import PREFIX, cached_locally, seen
from harness.programs import PrivateLoop, StartProgram

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

pytest_plugins = ["program_fixtures"]
pytestmark = pytest.mark.depends_on("loop")


def near_cache(server: Server) -> AsyncRedisCache:
    """One that is closed."""
    options: dict[str, Any] = {"near_cache_enabled": True, "key_prefix": PREFIX}
    return AsyncRedisCache.from_url(server.url, **options)


def test_child_has_its_own_near_cache(
    start_program: StartProgram, server: Server, key_prefix: str
) -> None:
    """A forked child arms a link anew; parent and child see each other's changes."""
    ended = start_program("near_forking", server.url, key_prefix).wait()
    assert (ended.code, ended.errors) == (0, "")
    found = json.loads(ended.lines[-1])
    assert found == {"code": 0, "child": ["the parent's", 1, "the child's", 0], "parent": 3}


# A loop that is closed with open transports is complained about by them, with any cache.
@pytest.mark.filterwarnings("ignore::ResourceWarning")
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("politely", [True, False], ids=["asyncio.run", "closed"])
def test_a_loop_that_is_closed_before_the_cache(
    server: Server,
    raw: Client,
    private_loop: PrivateLoop,
    caplog: pytest.LogCaptureFixture,
    politely: bool,
) -> None:
    """No local entry of the lost loop exists on the next one, and nothing is reported about it."""
    # What earlier tests have left is not complained about here.
    gc.collect()
    caplog.clear()
    cache = near_cache(server)
    for turn in range(3):
        raw.set(f"{PREFIX}key", str(turn))
        use(cache, turn, private_loop, politely=politely)
        gc.collect()
    assert [record for record in caplog.records if record.levelno >= logging.WARNING] == []
    run(cache.close(None), private_loop, politely=True)
    gc.collect()
    stats = cache.stats()
    assert (stats.near_connected, stats.near_entries) == (False, 0)


def use(cache: AsyncRedisCache, value: int, private_loop: PrivateLoop, *, politely: bool) -> None:
    """Open on a new loop, which is closed afterwards while the cache is still open."""

    async def work() -> None:
        await cache.open(None)
        assert await cache.retrieve(None, "key") == value
        await cached_locally(cache, "key")
        await seen(cache, "key", value)

    run(work(), private_loop, politely=politely)


def run(work: Coroutine[Any, Any, None], private_loop: PrivateLoop, *, politely: bool) -> None:
    """As `asyncio.run`, or without any of the care that it takes."""
    new_loop: Callable[[], asyncio.AbstractEventLoop] = asyncio.new_event_loop
    if private_loop == "uvloop":
        import uvloop

        new_loop = uvloop.new_event_loop
    if politely:
        with asyncio.Runner(loop_factory=new_loop) as runner:
            runner.run(work)
    else:
        loop = new_loop()
        loop.run_until_complete(work)
        loop.close()
