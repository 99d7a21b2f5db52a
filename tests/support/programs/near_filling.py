"""Reads many keys through a small near cache: `near_filling.py <url> <prefix> <keys> <step>`.

The keys are <prefix>0, <prefix>1 and so on. Prints after each step the memory of this process in
bytes, what the near cache says it takes, its entries, and how many keys had a value.
"""

from __future__ import annotations

import asyncio
import gc
import json
import os
import sys
from pathlib import Path

from async_redis_cache import AsyncRedisCache

AT_ONCE = 2_000
MOST_ENTRIES = 10_000


def resident_bytes() -> int:
    """What the kernel says that this process takes."""
    gc.collect()
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGESIZE")


async def main(url: str, prefix: str, count: int, step: int) -> None:
    found = 0
    async with AsyncRedisCache.from_url(
        url,
        key_prefix=prefix,
        near_cache_enabled=True,
        near_cache_max_size=MOST_ENTRIES,
        command_timeout=20_000,
        near_cache_heartbeat=20_000,
    ) as cache:
        for start in range(0, count, AT_ONCE):
            keys = [f"{number}" for number in range(start, start + AT_ONCE)]
            found += len(await cache.retrieve_many(None, keys))
            if (start + AT_ONCE) % step == 0:
                stats = cache.stats()
                line = [resident_bytes(), stats.near_bytes, stats.near_entries, found]
                sys.stdout.write(json.dumps(line) + "\n")
                sys.stdout.flush()


asyncio.run(main(sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])))
