"""A reverse proxy under `ResponseCache`, for `uvicorn http_proxy:app`. ORIGIN in the environment is what it asks.

Every path is opted in, with all that RFC 9111 allows: the public suite for HTTP caches is run against it.
"""

from __future__ import annotations

import os
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Final

from starlette.applications import Starlette
from starlette.routing import Route

from async_redis_cache import AsyncRedisCache
from async_redis_cache.asgi import ResponseCache, ResponseOptions
from harness.http_origin import Origin, Proxy

RULES: Final[dict[str, ResponseOptions]] = {
    "*": {
        "follows_requests": True,
        "targeted": ("CDN-Cache-Control",),
        "heuristic_ttl": 86_400,
        "stale_if_error": 60,
    }
}

cache = AsyncRedisCache.from_url(os.environ.get("CACHE", "embedded://"))
origin = Origin(os.environ["ORIGIN"])


@asynccontextmanager
async def lifespan(app: Starlette) -> AsyncGenerator[None]:
    """Open the cache and the client of the origin."""
    async with cache, origin:
        yield


# An endpoint that is an application itself takes all methods.
proxied = Starlette(routes=[Route("/{path:path}", Proxy(origin))], lifespan=lifespan)
app = ResponseCache(proxied, cache=cache, rules=RULES)
