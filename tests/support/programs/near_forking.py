"""A process whose near cache is inherited by its child: `near_forking.py <url> <prefix>`.

The parent holds a key near and forks. The child changes it; both read until they see the change.
Prints, as JSON, what the parent saw, and how often the child was answered from near.
"""

from __future__ import annotations

import json
import os
import sys
import time

from async_redis_cache import RedisCache

PATIENCE_SECONDS = 60.0


def await_value(cache: RedisCache, value: object) -> None:
    deadline = time.monotonic() + PATIENCE_SECONDS
    while cache.retrieve(None, "key") != value:
        if time.monotonic() > deadline:
            raise TimeoutError(f"{value} was never seen")


def hold_near(cache: RedisCache) -> int:
    """Ask until it is near; how often it was."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    hits = cache.stats().near_hits
    while cache.stats().near_hits == hits:
        cache.retrieve(None, "key")
        if time.monotonic() > deadline:
            raise TimeoutError("nothing was near")
    return cache.stats().near_hits - hits


def child(cache: RedisCache, results: int) -> None:
    first = cache.retrieve(None, "key")
    hits = hold_near(cache)
    cache.store(None, "key", "the child's")
    read = cache.retrieve(None, "key")
    cache.close(None)
    os.write(results, json.dumps([first, hits, read, cache.stats().near_entries]).encode())


def main(url: str, prefix: str) -> None:
    cache = RedisCache.from_url(
        url, key_prefix=prefix, near_cache_enabled=True, command_timeout=20_000
    )
    cache.open(None)
    cache.store(None, "key", "the parent's")
    hold_near(cache)
    answer, results = os.pipe()
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            child(cache, results)
            code = 0
        finally:
            os._exit(code)
    os.close(results)
    await_value(cache, "the child's")
    hold_near(cache)
    _, status = os.waitpid(pid, 0)
    with os.fdopen(answer) as lines:
        told = json.loads(lines.read())
    cache.store(None, "key", 3)
    found = cache.retrieve(None, "key")
    cache.close(None)
    sys.stdout.write(json.dumps({"code": status, "child": told, "parent": found}) + "\n")


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2])
