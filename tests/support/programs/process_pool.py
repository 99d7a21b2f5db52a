"""A service with a pool of processes: `process_pool.py <url> <prefix> <fork|spawn|forkserver>`.

Its cache is a global, opened by the parent, and by each worker that does not find it open. Prints,
as JSON, how many answers were wrong and whether the workers found the cache open.
"""

from __future__ import annotations

import json
import multiprocessing
import sys

from async_redis_cache import RedisCache

KEYS = 64
WORKERS = 4

# Spawned workers execute this module again, under another name and with the same arguments.
cache = RedisCache.from_url(sys.argv[1], key_prefix=sys.argv[2], command_timeout=10_000)


def found_open() -> bool:
    was_open = cache.is_open()
    cache.open(None)
    return was_open


def wrong_answers(seed: int) -> int:
    found_open()
    keys = [(seed * 17 + step * 23) % KEYS for step in range(50)]
    return sum(cache.retrieve(None, f"key-{key}") != key for key in keys)


def main(kind: str) -> None:
    cache.open(None)
    cache.store_many(None, {f"key-{key}": key for key in range(KEYS)})
    with multiprocessing.get_context(kind).Pool(WORKERS) as pool:
        inherited = pool.apply(found_open)
        working = pool.map_async(wrong_answers, range(4 * WORKERS))
        wrong = 0
        while not working.ready():
            wrong += wrong_answers(0)
        wrong += sum(working.get())
        pool.close()
        pool.join()
    cache.close(None)
    sys.stdout.write(json.dumps({"wrong": wrong, "inherited": inherited}) + "\n")


if __name__ == "__main__":
    main(sys.argv[3])
