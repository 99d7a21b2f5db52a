"""A program that gets Ctrl-C while it waits for its cache: `interrupted.py <url> <how> <times>`.

Before each wait it prints "ready" and reads a line, so that the server can be frozen; amid the wait
it prints "waiting"; when it is interrupted, the moment, on the clock that all processes share, less
what the threads that have ended since had to wait for the machine: nobody else can tell any more. Then
it reads a line, and prints what the cache gives after that. At the end it prints what is left of
the threads of its caches.
"""

from __future__ import annotations

import asyncio
import signal
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

from async_redis_cache import AsyncRedisCache, RedisCache

WAITED_SECONDS = 0.05
NANOSECONDS = 1e9

ended: list[int] = []
"""How long threads that have ended were ready to run and did not, in nanoseconds."""


class Thread(threading.Thread):
    """One that leaves behind what is known of it only while it is there."""

    def run(self) -> None:
        try:
            super().run()
        finally:
            ended.append(int(Path("/proc/thread-self/schedstat").read_text().split()[1]))


def say(what: object) -> None:
    sys.stdout.write(f"{what}\n")
    sys.stdout.flush()


def new_loop() -> asyncio.AbstractEventLoop:
    """What the private loop would be, for the program itself."""
    try:
        import uvloop
    except ImportError:
        return asyncio.new_event_loop()
    return uvloop.new_event_loop()


def interrupted(wait: Callable[[], object]) -> None:
    say("ready")
    sys.stdin.readline()
    telling = threading.Timer(WAITED_SECONDS, say, ["waiting"])
    telling.start()
    ended.clear()
    try:
        wait()
    except KeyboardInterrupt:
        say(time.monotonic() - sum(ended) / NANOSECONDS)
    else:
        say("not interrupted")
    telling.join()
    sys.stdin.readline()


async def in_loop(cache: AsyncRedisCache) -> object:
    async with cache:
        say("ready")
        sys.stdin.readline()
        asyncio.get_running_loop().call_later(WAITED_SECONDS, say, "waiting")
        return await cache.retrieve(None, "key")


async def once(cache: AsyncRedisCache) -> object:
    async with cache:
        return await cache.retrieve(None, "key")


def run(url: str) -> None:
    """With asyncio.run, which turns Ctrl-C into a cancellation."""
    cache = AsyncRedisCache.from_url(url, key_prefix="p:", command_timeout=5000)
    try:
        with asyncio.Runner(loop_factory=new_loop) as runner:
            runner.run(in_loop(cache))
    except KeyboardInterrupt:
        say(time.monotonic())
    say(cache.is_open())
    sys.stdin.readline()
    with asyncio.Runner(loop_factory=new_loop) as runner:
        say(runner.run(once(cache)))


def main(url: str, how: str, times: int) -> None:
    for _ in range(times):
        if how == "run":
            run(url)
            continue
        cache = RedisCache.from_url(
            url, key_prefix="p:", command_timeout=5000, connect_timeout=5000
        )
        if how == "open":
            interrupted(lambda cache=cache: cache.open(None))  # type: ignore[misc]
            cache.open(None)
        else:
            cache.open(None)
            interrupted(lambda cache=cache: cache.retrieve(None, "key"))  # type: ignore[misc]
        say(cache.retrieve(None, "key"))
        cache.close(None)
    say(sorted(thread.name for thread in threading.enumerate() if thread.name == "RedisCache"))


if __name__ == "__main__":
    # A shell that runs the tests in the background has them ignore Ctrl-C, and hands that down.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    threading.Thread = Thread  # type: ignore[misc]
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]))
