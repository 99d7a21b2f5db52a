"""Counts under a lock, as one of several processes. Arguments: URL, topology, increments, max_size."""

from __future__ import annotations

import asyncio
import sys

from harness.apis import configured


async def main(url: str, topology: str, increments: int, max_size: int) -> None:
    options = {"key_prefix": "p{all}:", "topology": topology, "max_size": max_size}
    async with configured(url, command_timeout=20_000, **options) as cache:
        counts = cache.namespace("count")
        await cache.ping(None)
        print("ready", flush=True)  # noqa: T201  the test reads it
        await asyncio.to_thread(sys.stdin.readline)
        for _ in range(increments):
            async with counts.lock("n", wait=120) as lock:
                # Not atomic: an increment is lost if two processes are here at once.
                count, fence = await counts.get("n", [0, 0])
                if fence >= lock.fencing_number:
                    raise RuntimeError("the fencing number did not grow")
                await counts.set("n", [count + 1, lock.fencing_number], 600)


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])))
