"""The first `open` of a process imports nothing on the event loop's thread."""

from __future__ import annotations

import subprocess
import sys

import pytest

from harness import Server

pytestmark = pytest.mark.depends_on()

PROGRAM = """
import asyncio, sys, threading

from async_redis_cache import AsyncRedisCache

imported = []

def watch(event, arguments):
    if event == "import" and watching and threading.get_ident() == watching[0]:
        imported.append(arguments[0])

watching = []
sys.addaudithook(watch)

async def main():
    cache = AsyncRedisCache.from_url(sys.argv[1], near_cache_enabled=sys.argv[2] == "near")
    watching.append(threading.get_ident())
    await cache.open(None)
    await cache.store(None, "key", {"a": 1})
    await cache.retrieve(None, "key")
    await cache.retrieve_or_load(None, "other", lambda: 1)
    await cache.close(None)
    watching.clear()

asyncio.run(main())
print(*imported)
"""


def imported_on_the_loop(url: str, way: str) -> list[str]:
    """What a fresh process imports on its loop, from `open` to `close`."""
    program = [sys.executable, "-c", PROGRAM, url, way]
    done = subprocess.run(program, capture_output=True, text=True, timeout=100, check=True)
    return done.stdout.split()


@pytest.mark.parametrize("way", ["plain", "near"])
def test_open_imports_nothing_on_the_loop(server: Server, way: str) -> None:
    """Nor do the first calls, by address or by name, with a near cache or without."""
    named = server.url.replace("127.0.0.1", "localhost")
    for url in (server.url, named):
        assert imported_on_the_loop(url, way) == []


def test_open_of_a_fake_server_imports_it_in_a_worker_thread() -> None:
    """Importing fakeredis takes a while; the loop keeps running."""
    assert imported_on_the_loop("fake://", "plain") == []
