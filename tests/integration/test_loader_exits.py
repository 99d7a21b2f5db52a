"""SystemExit, KeyboardInterrupt and the like end their own call, and never the cache."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Any, Never

import msgspec
import pytest

from async_redis_cache import AsyncRedisCache, CacheStateError, CoalescingLoader, RedisCache
from async_redis_cache._engine import single_flight as _loading
from harness import Server
from harness.waiting import wait_until

pytest_plugins = ["program_fixtures"]
pytestmark = pytest.mark.depends_on("loop")

PATIENCE_SECONDS = 10.0


class Ended(BaseException):
    """Neither an `Exception`, nor one that asyncio knows."""


ENDS = [SystemExit, KeyboardInterrupt, GeneratorExit, Ended]


class Ending:
    """A serializer of JSON that ends in this for one value."""

    def __init__(self, end: type[BaseException]) -> None:
        self._end = end

    def dumps(self, value: Any) -> bytes:
        if value == "unwritable":
            raise self._end("said")
        return msgspec.json.encode(value)

    def loads(self, data: bytes) -> Any:
        value = msgspec.json.decode(data)
        if value == "unreadable":
            raise self._end("said")
        return value


def calls(end: type[BaseException]) -> dict[str, Callable[[Any], Any]]:
    """By name a call that ends in this, for either API."""

    def plain(*_: object) -> Never:
        raise end("said")

    async def coroutine(*_: object) -> Never:
        raise end("said")

    many: Any = plain
    return {
        "plain": lambda cache: cache.retrieve_or_load(None, "a", plain),
        "thread": lambda cache: cache.retrieve_or_load(None, "b", plain, in_thread=True),
        "coroutine": lambda cache: cache.retrieve_or_load(None, "c", coroutine),
        "entry": lambda cache: cache.retrieve_or_load_entry(None, "d", plain),
        "refresh": lambda cache: cache.refresh(None, "e", coroutine),
        "many": lambda cache: cache.retrieve_or_load_many(None, ["f", "g"], plain),
        "coalescing": lambda cache: cache.retrieve_or_load(None, "h", CoalescingLoader(many)),
        "dumps": lambda cache: cache.store(None, "i", "unwritable"),
        "dumps_loaded": lambda cache: cache.retrieve_or_load(None, "j", lambda: "unwritable"),
        "loads_loaded": lambda cache: cache.retrieve_or_load(None, "k", lambda: "unreadable"),
    }


@pytest.mark.parametrize("end", ENDS)
@pytest.mark.parametrize("name", calls(SystemExit))
def test_exit_reaches_its_caller_and_no_other_thread(
    name: str, end: type[BaseException], any_server: Server, key_prefix: str
) -> None:
    """33. With threads, a loader or serializer raises a BaseException: its caller gets it, and no other call."""
    url = any_server.url
    with RedisCache.from_url(url, serializer=Ending(end), key_prefix=key_prefix) as cache:
        with ThreadPoolExecutor(1) as threads:
            other = threads.submit(cache.store, None, "other", 1)
            with pytest.raises(end, match="said"):
                calls(end)[name](cache)
            assert other.result(PATIENCE_SECONDS) == 1
            assert threads.submit(cache.retrieve, None, "other").result(PATIENCE_SECONDS) == 1
        assert cache.is_open()


@pytest.mark.parametrize("end", ENDS)
@pytest.mark.parametrize("name", calls(SystemExit))
async def test_exit_reaches_its_awaiter_and_the_loop_goes_on(
    name: str, end: type[BaseException], any_server: Server, key_prefix: str
) -> None:
    """33. With the asynchronous API, the caller gets the BaseException, and its event loop serves the next call."""
    url = any_server.url
    async with AsyncRedisCache.from_url(
        url, serializer=Ending(end), key_prefix=key_prefix
    ) as cache:
        with pytest.raises(end, match="said"):
            await calls(end)[name](cache)
        assert await cache.store(None, "other", 1) == 1


def test_exit_ends_the_loop_when_it_is_left_to_the_task_of_a_load(
    any_server: Server, key_prefix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """33, the proof: an exit that is raised in the private event loop ends it with all its calls."""

    async def bare(awaitable: Awaitable[Any]) -> Any:
        return await awaitable

    monkeypatch.setattr(_loading, "capture", bare)
    served: list[str] = []

    async def serve() -> None:
        async with AsyncRedisCache.from_url(any_server.url, key_prefix=key_prefix) as cache:
            with suppress(SystemExit):
                await cache.retrieve_or_load(None, "a", sys.exit)
            served.append("the next call")

    with pytest.raises(SystemExit):
        asyncio.run(serve())
    assert not served


@pytest.mark.filterwarnings("ignore:Exception in thread RedisCache")
@pytest.mark.usefixtures("private_loop")
def test_cache_whose_loop_has_ended_refuses_and_opens_again(
    any_server: Server, key_prefix: str
) -> None:
    """33. If the private event loop ends, calls raise NOT_OPENED at once, and `open` starts it again."""
    cache = RedisCache.from_url(any_server.url, key_prefix=key_prefix)
    cache.open(None)
    portal = cache._core.portal
    assert portal is not None
    assert portal._loop is not None
    with ThreadPoolExecutor(1) as threads:
        waiting = threads.submit(
            cache.retrieve_or_load, None, "key", lambda: wait_until(lambda: portal.is_closed)
        )
        wait_until(lambda: cache.stats().loads)
        portal._loop.call_soon_threadsafe(sys.exit)
        error = waiting.exception(PATIENCE_SECONDS)
        assert isinstance(error, CacheStateError)
        wait_until(lambda: not cache.is_open())
        refused = threads.submit(cache.retrieve, None, "key").exception(PATIENCE_SECONDS)
        assert isinstance(refused, CacheStateError)
        assert (error.code, refused.code) == ("NOT_OPENED", "NOT_OPENED")
    cache.open(None)
    assert cache.is_open()
    assert cache.store(None, "key", 1) == 1
    cache.close(None)
