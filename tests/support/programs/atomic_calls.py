"""Adds one key and increments another, as one of several processes. Arguments: URL, topology, increments, max_size."""

from __future__ import annotations

import asyncio
import os
import sys

from harness.apis import configured


async def main(url: str, topology: str, increments: int, max_size: int) -> None:
    options = {"key_prefix": "p{all}:", "topology": topology, "max_size": max_size}
    async with configured(url, command_timeout=20_000, **options) as cache:
        await cache.ping(None)
        print("ready", flush=True)  # noqa: T201  the test reads it
        await asyncio.to_thread(sys.stdin.readline)
        added = await cache.add(None, "once", os.getpid())
        await asyncio.gather(*(cache.incr(None, "count") for _ in range(increments)))
        print(int(added), flush=True)  # noqa: T201  the test reads it


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])))
