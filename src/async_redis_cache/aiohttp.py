"""aiohttp integration: a cache that the application opens at startup, passes to its handlers, and closes.

Needs the extra `aiohttp`: `pip install 'async-redis-cache[aiohttp]'`.

    app.cleanup_ctx.append(cache_context(AsyncRedisCache.from_url("redis://127.0.0.1:6379/0")))

    async def user(request: web.Request) -> web.Response:
        cache = get_cache(request)

For several caches, use application keys of your own:

    CARTS = web.AppKey("carts", AsyncRedisCache)
    app.cleanup_ctx.append(cache_context(carts, CARTS))

A middleware that caches whole responses:

    app = web.Application(middlewares=[response_cache()])

    @cache_response(ttl=60)
    async def page(request: web.Request) -> web.Response: ...
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from functools import wraps
from typing import Any, Final, TypeVar, Unpack
from weakref import WeakKeyDictionary

try:
    from aiohttp import web
    from aiohttp.typedefs import Handler, Middleware
except ImportError as _error:
    raise ImportError(
        "async_redis_cache.aiohttp needs the extra 'aiohttp': "
        "pip install 'async-redis-cache[aiohttp]'"
    ) from _error

from async_redis_cache import AsyncRedisCache, RedisCache
from async_redis_cache._http.aiohttp_handling import CURRENT, Handling, Settings, before_sending
from async_redis_cache._http.cache_status import cache_identifier
from async_redis_cache._http.handlers import CALLED
from async_redis_cache._http.invalidation import keys_of_url
from async_redis_cache._http.response_log import warn_without_effect
from async_redis_cache._http.response_options import PathRules, ResponseOptions, Rule
from async_redis_cache._http.response_store import ResponseStore, records_of, sync_records_of
from async_redis_cache._http.tags_header import TagsHeader

__all__ = [
    "CACHE",
    "ResponseOptions",
    "add_response_tags",
    "cache_context",
    "cache_response",
    "get_cache",
    "invalidate_url",
    "invalidate_url_sync",
    "response_cache",
]


_MISSING: Final = (
    "the request was not handled by the middleware of the cache, which is added with "
    "web.Application(middlewares=[response_cache()])"
)
S = TypeVar("S", bound=web.Request | web.View)

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
        if not app.on_response_prepare.frozen:
            app.on_response_prepare.append(before_sending)
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


def response_cache(
    key: web.AppKey[AsyncRedisCache] = CACHE,
    *,
    namespace: str = "responses",
    rules: Mapping[str, ResponseOptions] | None = None,
    name: str = "async-redis-cache",
    tags_header: str | None = None,
    shows_key: bool = False,
) -> Middleware:
    """Return a middleware that caches responses, as a shared HTTP cache by RFC 9111.

    Args:
        key: the application key of the cache, see `cache_context`.
        namespace: the name of the namespace of the responses.
        rules: patterns of paths, with "*" for any text, and the options of their routes. The first that matches
            applies, and the `cache_response` of a handler does not.
        name: of the cache in `Cache-Status`.
        tags_header: the name of a header field in which handlers send tags of a response, separated by commas. It is
            neither stored nor sent.
        shows_key: whether `Cache-Status` has the URI that a response is stored under, to find out why two requests do not
            share one.

    Raises:
        ValueError: an option of the rules, or `tags_header`, is invalid.
    """
    by_path = PathRules(rules)
    header = None if tags_header is None else TagsHeader(tags_header)
    identifier = cache_identifier(name)
    settings: WeakKeyDictionary[AsyncRedisCache, Settings] = WeakKeyDictionary()

    @web.middleware
    async def middleware(request: web.Request, handler: Handler) -> web.StreamResponse:
        cache = get_cache(request, key)
        found = settings.get(cache)
        if found is None:
            store = ResponseStore(records_of(cache, namespace))
            found = settings[cache] = Settings(store, identifier, header, shows_key)
        handling = Handling(found, request, handler)
        return await handling.response(by_path.find(request.path))

    return middleware


def cache_response(
    **options: Unpack[ResponseOptions],
) -> Callable[
    [Callable[[S], Awaitable[web.StreamResponse]]], Callable[[S], Awaitable[web.StreamResponse]]
]:
    """Return a decorator of a handler whose responses the middleware `response_cache` stores.

    The cache is asked when the handler is called. So what runs before it, such as authorization in a middleware or a
    decorator outside of this one, runs for stored responses too.

    Args:
        **options: see `ResponseOptions`.

    Raises:
        TypeError: an option is unknown.
        ValueError: a duration is negative or more than ten years, or a tag is invalid.
    """
    rule = Rule(options)

    def decorate(
        handler: Callable[[S], Awaitable[web.StreamResponse]],
    ) -> Callable[[S], Awaitable[web.StreamResponse]]:
        @wraps(handler)
        async def cached(request: Any) -> web.StreamResponse:
            handling = CURRENT.get()
            if handling is None:
                warn_without_effect(f"cache_response of {handler.__qualname__}", _MISSING)
            elif handling.is_for(cached):
                if await handling.enter(rule, is_routed=True) is not None:
                    # The middleware replaces it.
                    return web.Response()
                # The method of a class-based view has the view instead, whose request is that of the client.
                if isinstance(request, web.Request):
                    request = handling.forwarded(request)
            elif handling.run is None:
                warn_without_effect(f"cache_response of {handler.__qualname__}", CALLED)
            return await handler(request)

        return cached

    return decorate


def add_response_tags(*tags: str) -> None:
    """Add tags to the response, in its handler, a dependency or a middleware. They apply only if it is stored."""
    handling = CURRENT.get()
    if handling is not None:
        handling.add_tags(tags)


async def invalidate_url(
    cache: AsyncRedisCache,
    url: str,
    *,
    namespace: str = "responses",
    headers: Mapping[str, str] | None = None,
) -> None:
    """Invalidate the response of a URL, with all its variants, as a successful PUT does.

    A job in another process needs only the cache. A response whose handler is running is not stored.

    Args:
        cache: open, with the server and `key_prefix` of that of the middleware.
        url: as clients send it. In a handler, it may be relative, such as
            `str(request.app.router["product"].url_for(product_id="7"))`.
        namespace: that of the middleware.
        headers: what a proxy in front of the application adds to the requests, such as `X-Forwarded-Prefix`; in a
            handler, that of its request is added too.

    Raises:
        ValueError: the URL is not one of http or https, or is relative outside of a handler, or its host is not one that
            clients send.
        CacheError: the response may be stored still.
    """
    await records_of(cache, namespace).delete_many(_keys_of(url, headers))


def invalidate_url_sync(
    cache: RedisCache,
    url: str,
    *,
    namespace: str = "responses",
    headers: Mapping[str, str] | None = None,
) -> None:
    """Do what `invalidate_url` does, for a job or a handler in a thread.

    Args:
        cache: open, with the server and `key_prefix` of that of the middleware.
        url: as for `invalidate_url`. In a handler, it may be relative.
        namespace: that of the middleware.
        headers: as for `invalidate_url`.

    Raises:
        ValueError: as for `invalidate_url`.
        CacheError: the response may be stored still.
    """
    sync_records_of(cache, namespace).delete_many(_keys_of(url, headers))


def _keys_of(url: str, headers: Mapping[str, str] | None) -> set[str]:
    handling = CURRENT.get()
    return keys_of_url(url, headers, None if handling is None else handling.target)
