"""A loader blocks or ends the private loop: `close` returns all the same, and `open` works again."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NoReturn

import pytest

from async_redis_cache import CacheStateError, RedisCache
from async_redis_cache._runtime import private_core
from harness import Server
from harness.waiting import wait_until

pytest_plugins = ["program_fixtures"]
pytestmark = [
    pytest.mark.depends_on("loop"),
    pytest.mark.usefixtures("private_loop"),
    pytest.mark.filterwarnings("ignore:Exception in thread RedisCache"),
]

PATIENCE_SECONDS = 20.0


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """`close` waits for next to nothing."""
    monkeypatch.setattr(private_core, "_CLOSE_TIMEOUT", 0.05)


def opened(server: Server, key_prefix: str) -> RedisCache:
    cache = RedisCache.from_url(server.url, key_prefix=key_prefix)
    cache.open(None)
    return cache


@pytest.mark.usefixtures("impatient")
def test_close_returns_while_a_loader_blocks_the_private_loop(
    any_server: Server, key_prefix: str
) -> None:
    """The cache is closed for its callers, cannot be opened meanwhile, and can when the loader has ended."""
    cache = opened(any_server, key_prefix)
    gate, entered = threading.Event(), threading.Event()

    async def block() -> int:
        entered.set()
        assert gate.wait(PATIENCE_SECONDS)
        return 1

    with ThreadPoolExecutor(1) as threads:
        loading = threads.submit(cache.retrieve_or_load, None, "key", block)
        assert entered.wait(PATIENCE_SECONDS)
        cache._core.patience = 0.05
        cache.close(None)
        assert not gate.is_set()
        assert not cache.is_open()
        with pytest.raises(CacheStateError, match="blocks the private event loop"):
            cache.open(None)
        with pytest.raises(CacheStateError, match="not open"):
            cache.retrieve(None, "key")
        gate.set()
        assert isinstance(loading.exception(PATIENCE_SECONDS), CacheStateError)
    ending = cache._core.ending
    assert ending is not None
    wait_until(lambda: ending.close(0))
    cache.open(None)
    assert cache.store(None, "key", 2) == cache.retrieve(None, "key") == 2
    cache.close(None)


@pytest.mark.usefixtures("impatient")
def test_close_returns_while_a_thread_of_a_loader_hangs(
    any_server: Server, key_prefix: str
) -> None:
    """What `asyncio.to_thread` runs in a loader keeps the cache neither from closing nor from opening."""
    cache = opened(any_server, key_prefix)
    gate, entered, ended = threading.Event(), threading.Event(), threading.Event()

    def hang() -> None:
        entered.set()
        gate.wait(PATIENCE_SECONDS)
        ended.set()

    async def load() -> None:
        await asyncio.to_thread(hang)

    with ThreadPoolExecutor(1) as threads:
        loading = threads.submit(cache.retrieve_or_load, None, "key", load)
        assert entered.wait(PATIENCE_SECONDS)
        cache._core.patience = 0.05
        cache.close(None)
        assert isinstance(loading.exception(PATIENCE_SECONDS), CacheStateError)
        ending = cache._core.ending
        # On a busy machine the event loop takes longer to end than `close` waits.
        wait_until(lambda: ending is None or ending.close(0))
        cache.open(None)
        assert cache.store(None, "key", 2) == cache.retrieve(None, "key") == 2
        cache.close(None)
        assert not ended.is_set()
        gate.set()


def _exit() -> NoReturn:
    raise SystemExit


def _exit_later() -> None:
    asyncio.get_running_loop().call_soon(_exit)


def _stop() -> None:
    asyncio.get_running_loop().stop()


def _close_selector() -> None:
    loop: Any = asyncio.get_running_loop()
    if hasattr(loop, "_selector"):
        loop._selector.close()
    else:
        # uvloop has none.
        loop.stop()


def _cancel_all() -> None:
    for task in asyncio.all_tasks():
        task.cancel()


@pytest.mark.parametrize("end", [_exit_later, _stop, _close_selector, _cancel_all])
def test_cache_opens_again_after_a_loader_has_ended_the_private_loop(
    end: Callable[[], None], any_server: Server, key_prefix: str
) -> None:
    """Whatever the loader does to the loop, each caller gets NOT_OPENED, and the cache opens and closes."""
    cache = opened(any_server, key_prefix)
    entered = threading.Event()

    async def wait() -> None:
        entered.set()
        await asyncio.sleep(PATIENCE_SECONDS)

    async def load() -> None:
        end()
        await asyncio.sleep(PATIENCE_SECONDS)

    with ThreadPoolExecutor(1) as threads:
        other = threads.submit(cache.retrieve_or_load, None, "other", wait)
        assert entered.wait(PATIENCE_SECONDS)
        with pytest.raises(CacheStateError) as raised:
            cache.retrieve_or_load(None, "key", load)
        error = other.exception(PATIENCE_SECONDS)
        assert isinstance(error, CacheStateError)
        assert (raised.value.code, error.code) == ("NOT_OPENED", "NOT_OPENED")
    wait_until(lambda: not cache.is_open())
    cache.open(None)
    assert cache.store(None, "key", 2) == cache.retrieve(None, "key") == 2
    cache.close(None)
    assert not cache.is_open()
