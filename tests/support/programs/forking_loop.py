"""An asyncio service that forks: `forking_loop.py <url> <pid of the server> <prefix> <loop> <rounds>`.

The children collect the inherited cache, use it on a loop of their own, or leave. Prints, as JSON,
what the calls of the parent and of the children gave.
"""

from __future__ import annotations

import asyncio
import gc
import json
import os
import sys
import time
from collections.abc import Callable

from async_redis_cache import AsyncRedisCache, CacheStateError
from harness.contention import Contention

RIGHT, WRONG = 0, 9

cache: AsyncRedisCache | None = None


def collect() -> None:
    global cache  # noqa: PLW0603  the child forgets it, as a service that starts anew does
    cache = None
    gc.collect()


async def use_anew() -> None:
    assert cache is not None
    code = None
    try:
        await cache.retrieve(None, "key")
    except CacheStateError as error:
        code = error.code
    assert code == "WRONG_LOOP"
    await cache.open(None)
    assert await cache.retrieve(None, "key") == "value"
    await cache.close(None)


def use() -> None:
    asyncio.run(use_anew())
    collect()


def leave() -> None:
    """Neither touch it nor collect it."""


WAYS: list[Callable[[], None]] = [collect, use, leave]


def fork(way: Callable[[], None]) -> int:
    child = os.fork()
    if child == 0:
        code = WRONG
        try:
            way()
            code = RIGHT
        finally:
            os._exit(code)
    return child


async def main(url: str, server: int, prefix: str, rounds: int) -> None:
    global cache  # noqa: PLW0603  as in a service, it is there for whoever needs it
    cache = AsyncRedisCache.from_url(url, key_prefix=prefix, command_timeout=20_000)
    await cache.open(None)
    await cache.store(None, "key", "value")
    slowest = 0.0
    codes: list[int] = []
    for way in WAYS * rounds:
        child = fork(way)
        status = 0
        gone = 0
        while not gone:
            gone, status = os.waitpid(child, os.WNOHANG)  # noqa: ASYNC222  it does not wait
            contention = Contention(os.getpid(), server)
            started = time.monotonic()
            assert await cache.retrieve(None, "key") == "value"
            seconds = time.monotonic() - started
            if seconds > slowest:
                slowest = max(slowest, seconds - contention.seconds())
        codes.append(os.waitstatus_to_exitcode(status))
    await cache.close(None)
    sys.stdout.write(json.dumps({"slowest": slowest, "codes": codes}) + "\n")


if __name__ == "__main__":
    work = main(sys.argv[1], int(sys.argv[2]), sys.argv[3], int(sys.argv[5]))
    if sys.argv[4] == "uvloop":
        import uvloop

        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(work)
    else:
        asyncio.run(work)
