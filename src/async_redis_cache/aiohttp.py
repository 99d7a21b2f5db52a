"""aiohttp integration: a cache that the application opens at startup, passes to its handlers, and closes.

Needs the extra `aiohttp`: `pip install 'async-redis-cache[aiohttp]'`.

    app.cleanup_ctx.append(cache_context(AsyncRedisCache.from_url("redis://127.0.0.1:6379/0")))

    async def user(request: web.Request) -> web.Response:
        cache = get_cache(request)

For several caches, use application keys of your own:

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
"""The default application key of the cache."""


def cache_context(
    cache: AsyncRedisCache, key: web.AppKey[AsyncRedisCache] = CACHE
) -> Callable[[web.Application], AsyncIterator[None]]:
    """Return a cleanup context that opens the cache when the application starts, and closes it at cleanup.

    If the cache cannot be opened, the application does not start. With `require_connection` false it starts, and
    the cache connects as soon as the server is reachable.

    Args:
        cache: not open.
        key: the application key under which `get_cache` finds the cache.

    Raises:
        RuntimeError: when the application starts, if it already has a cache under this key.
    """

    async def context(app: web.Application) -> AsyncIterator[None]:
        if key in app:
            raise RuntimeError(f"this application already has a cache under {key}: use another key")
        async with cache:
            app[key] = cache
            yield

    return context


def get_cache(request: web.Request, key: web.AppKey[AsyncRedisCache] = CACHE) -> AsyncRedisCache:
    """Return the cache of the application that serves this request, or of one that it is mounted in.

    Raises:
        KeyError: no `cache_context` with this key has started.
    """
    return request.config_dict[key]
