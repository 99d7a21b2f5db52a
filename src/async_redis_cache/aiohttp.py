"""A cache that an aiohttp application opens when it starts, hands to its handlers and closes.

Needs the extra `aiohttp`: `pip install 'async-redis-cache[aiohttp]'`.

    app.cleanup_ctx.append(cache_context(AsyncRedisCache.from_url("redis://127.0.0.1:6379/0")))

    async def user(request: web.Request) -> web.Response:
        cache = get_cache(request)

Several caches live side by side under keys of your own:

    CARTS = web.AppKey("carts", AsyncRedisCache)
    app.cleanup_ctx.append(cache_context(carts, CARTS))
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable

try:
    from aiohttp import web
except ImportError as _error:
    raise ImportError(
        "async_redis_cache.aiohttp needs the extra 'aiohttp': "
        "pip install 'async-redis-cache[aiohttp]'"
    ) from _error

from async_redis_cache import AsyncRedisCache

__all__ = ["CACHE", "cache_context", "get_cache"]

CACHE = web.AppKey("CACHE", AsyncRedisCache)
"""Where an application keeps its cache unless `cache_context` was given another key."""


def cache_context(
    cache: AsyncRedisCache, key: web.AppKey[AsyncRedisCache] = CACHE
) -> Callable[[web.Application], AsyncIterator[None]]:
    """Open the cache with the application and close it with it: for `app.cleanup_ctx`.

    An application whose cache cannot be opened does not start; with `require_connection` false it
    starts, and the cache connects as soon as it can.

    Raises:
        RuntimeError: when the application starts, if it has another cache under this key already.
    """

    async def context(app: web.Application) -> AsyncIterator[None]:
        if key in app:
            raise RuntimeError(f"this application has a cache under {key} already")
        async with cache:
            app[key] = cache
            yield

    return context


def get_cache(request: web.Request, key: web.AppKey[AsyncRedisCache] = CACHE) -> AsyncRedisCache:
    """The cache of the application that serves this request, or of one it is mounted in.

    Raises:
        KeyError: if no `cache_context` with this key has run.
    """
    return request.config_dict[key]
