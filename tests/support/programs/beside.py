"""Import a module, store and retrieve a value, and print the releases that were installed: `beside.py celery`."""

import asyncio
import importlib
import sys
from importlib.metadata import version

from async_redis_cache import AsyncRedisCache


async def main() -> None:
    """Use an embedded server after the other package was imported."""
    importlib.import_module(sys.argv[1])
    async with AsyncRedisCache.from_url("embedded://") as cache:
        await cache.store(None, "key", {"answer": 42}, 60_000)
        if await cache.retrieve(None, "key") != {"answer": 42}:
            sys.exit("the value was not retrieved")
    # A person reads which releases were chosen.
    print(", ".join(f"{name} {version(name)}" for name in ("redis", "hiredis", "msgspec")))  # noqa: T201


asyncio.run(main())
