"""One of many processes whose callers want one cold key, all at once.

Usage: loading.py <url> <url> <callers> <milliseconds that a load takes> <loading.lease_timeout>. Each
load counts itself on the server, through the second URL, and says so. Prints the different answers of
the callers.
"""

from __future__ import annotations

import asyncio
import sys
from typing import Any

from async_redis_cache import AsyncRedisCache
from harness.clients import connect


def _say(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


async def _want(url: str, counting: str, callers: int, milliseconds: int, lease: int) -> None:
    options: dict[str, Any] = {"loading_lease_timeout": lease, "command_timeout": 20_000}
    with connect(counting) as raw:
        async with AsyncRedisCache.from_url(url, **options) as cache:

            async def load() -> int:
                count = int(raw.incr("loads"))
                _say("loading")
                await asyncio.sleep(milliseconds / 1000)
                return count

            _say("ready")
            sys.stdin.readline()
            asked = (cache.retrieve_or_load(None, "key", load) for _ in range(callers))
            answers = await asyncio.gather(*asked)
    _say(f"answers {sorted(set(answers))}")


asyncio.run(_want(sys.argv[1], sys.argv[2], *map(int, sys.argv[3:])))
