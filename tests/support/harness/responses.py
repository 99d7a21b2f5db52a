"""Applications under `ResponseCache`, and clients of them."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Any

import httpx

from async_redis_cache import AsyncRedisCache
from async_redis_cache.asgi import ResponseCache, ResponseOptions

from .servers import Server

__all__ = ["client_of"]


@asynccontextmanager
async def client_of(
    app: Any,
    server: Server,
    key_prefix: str,
    rules: dict[str, ResponseOptions] | None = None,
    **options: Any,
) -> AsyncGenerator[httpx.AsyncClient]:
    """A client of an application under the middleware, whose exceptions it gets as 500 responses.

    Args:
        app: the application.
        server: of the cache.
        key_prefix: of the cache.
        rules: of the middleware.
        **options: of the cache.
    """
    async with AsyncRedisCache.from_url(server.url, key_prefix=key_prefix, **options) as cache:
        cached = ResponseCache(app, cache=cache, rules=rules, name="shop")
        transport = httpx.ASGITransport(cached, raise_app_exceptions=False)
        async with httpx.AsyncClient(transport=transport, base_url="http://shop") as client:
            yield client
        await cached.close()
