"""A child whose server does not answer: `forking_frozen.py <url> <command_timeout> <threads>`.

Waits for a line on its standard input before it forks. Prints, as JSON, how each call of the child
ended and how long it took, as it saw it.
"""

from __future__ import annotations

import json
import os
import sys
import threading
import time

from async_redis_cache import CacheError, RedisCache
from harness.contention import Contention


def child(cache: RedisCache, threads: int) -> None:
    ends: list[tuple[str, float]] = []
    contention = Contention(os.getpid())

    def call() -> None:
        started = time.monotonic()
        try:
            cache.retrieve(None, "key")
        except CacheError as error:
            seconds = time.monotonic() - started
            ends.append((type(error).__name__, seconds - contention.seconds()))

    callers = [threading.Thread(target=call) for _ in range(threads)]
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join()
    sys.stdout.write(json.dumps(ends) + "\n")
    sys.stdout.flush()


def main(url: str, command_timeout: int, threads: int) -> None:
    cache = RedisCache.from_url(url, command_timeout=command_timeout)
    cache.open(None)
    sys.stdout.write("open\n")
    sys.stdout.flush()
    sys.stdin.readline()
    pid = os.fork()
    if pid == 0:
        child(cache, threads)
        os._exit(0)
    os.waitpid(pid, 0)
    cache.close(None)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))
