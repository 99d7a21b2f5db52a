"""Cache the responses of an ASGI application, as a shared HTTP cache by RFC 9111.

    app.add_middleware(ResponseCache, cache=cache)

    @app.get("/products/{product_id}")
    @cache_response(ttl=60)
    async def product(product_id: int) -> Product: ...

The middleware stores nothing by itself: a route is opted in with `cache_response`, by a pattern of the middleware's
`rules`, or with `rules={"*": {}}` and what the `Cache-Control` of each response says.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from functools import partial, wraps
from inspect import isasyncgenfunction, iscoroutinefunction, isgeneratorfunction
from typing import Any, Final, ParamSpec, Unpack

import anyio

from async_redis_cache import AsyncRedisCache, RedisCache
from async_redis_cache._http.asgi_handling import CURRENT, Handling, Settings
from async_redis_cache._http.asgi_messages import send_reply
from async_redis_cache._http.cache_status import cache_identifier
from async_redis_cache._http.invalidation import keys_of_url
from async_redis_cache._http.response_log import warn_without_effect
from async_redis_cache._http.response_options import PathRules, ResponseOptions, Rule
from async_redis_cache._http.response_store import ResponseStore, records_of, sync_records_of
from async_redis_cache._http.tags_header import TagsHeader

__all__ = [
    "ResponseCache",
    "ResponseOptions",
    "add_response_tags",
    "cache_response",
    "invalidate_url",
    "invalidate_url_sync",
]

P = ParamSpec("P")
_MISSING: Final = (
    "the request was not handled by the middleware of the cache, which is added with "
    "app.add_middleware(ResponseCache, cache=cache)"
)


class ResponseCache:
    """ASGI middleware that caches responses.

    Args:
        app: the application.
        cache: open while the application serves.
        namespace: the name of the namespace of the responses.
        rules: patterns of paths, with "*" for any text, and the options of their routes. The first that matches
            applies, and the `cache_response` of a handler does not.
        name: of the cache in `Cache-Status`.
        tags_header: the name of a header field in which the application sends tags of a response, separated by commas.
            It is neither stored nor sent.
        shows_key: whether `Cache-Status` has the URI that a response is stored under, to find out why two requests do not
            share one.

    Raises:
        TypeError: the cache is not an `AsyncRedisCache`, or an option of the rules has another type.
        ValueError: an option of the rules, or `tags_header`, is invalid.
    """

    def __init__(
        self,
        app: Callable[[Any, Any, Any], Awaitable[None]],
        cache: AsyncRedisCache,
        *,
        namespace: str = "responses",
        rules: Mapping[str, ResponseOptions] | None = None,
        name: str = "async-redis-cache",
        tags_header: str | None = None,
        shows_key: bool = False,
    ) -> None:
        store = ResponseStore(records_of(cache, namespace))
        header = None if tags_header is None else TagsHeader(tags_header)
        self._settings = Settings(app, store, cache_identifier(name), header, shows_key)
        self._rules = PathRules(rules)

    # Frameworks have types of their own for these arguments: those of Litestar are not compatible with Starlette's.
    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Handle a request."""
        if scope["type"] != "http":
            try:
                await self._settings.app(scope, receive, send)
            finally:
                if scope["type"] == "lifespan":
                    await self.close()
            return
        handling = Handling(self._settings, scope, receive, send)
        rule = self._rules.find(scope["path"])
        reply = None if rule is None else await handling.look_up(rule)
        if reply is not None:
            await send_reply(send, reply)
            return
        token = CURRENT.set(handling)
        try:
            await handling.handle()
        finally:
            CURRENT.reset(token)

    async def close(self) -> None:
        """End what runs in the background: requests of the cache itself that revalidate stale responses."""
        await self._settings.store.close()


def cache_response(
    **options: Unpack[ResponseOptions],
) -> Callable[[Callable[P, Any]], Callable[P, Awaitable[Any]]]:
    """Return a decorator of a handler whose responses `ResponseCache` stores.

    For handlers of FastAPI, Starlette and Litestar; with other frameworks, use the `rules` of the middleware. The cache
    is asked when the handler is called. So what runs before it, such as authorization in a dependency of FastAPI or in a
    middleware, runs for stored responses too.

    Args:
        **options: see `ResponseOptions`.

    Raises:
        TypeError: an option is unknown or has another type, or the handler is a generator function.
        ValueError: a duration is negative or more than ten years, or a tag is invalid.
    """
    prepared = Rule(options)

    def decorate(handler: Callable[P, Any]) -> Callable[P, Awaitable[Any]]:
        name = getattr(handler, "__qualname__", type(handler).__qualname__)
        if isgeneratorfunction(handler) or isasyncgenfunction(handler):
            raise TypeError(
                f"cache_response cannot cache what {name} yields: return a StreamingResponse, or use "
                "the rules of ResponseCache"
            )
        is_coroutine = iscoroutinefunction(handler) or iscoroutinefunction(type(handler).__call__)

        @wraps(handler)
        async def cached(*args: P.args, **kwargs: P.kwargs) -> Any:
            handling = CURRENT.get()
            if handling is None:
                warn_without_effect(f"cache_response of {name}", _MISSING)
            elif handling.is_for(cached):
                replaced = handling.placeholder()
                if await handling.enter(prepared):
                    return replaced
            elif handling.run is None:
                warn_without_effect(f"cache_response of {name}", handling.why_not)
            if is_coroutine:
                return await handler(*args, **kwargs)
            return await anyio.to_thread.run_sync(partial(handler, *args, **kwargs))

        return cached

    return decorate


async def is_answered(rule: Rule) -> bool:
    """Ask the cache in a handler, or before; return whether what the application returns is replaced."""
    handling = CURRENT.get()
    if handling is None:
        warn_without_effect("the dependency cache_response", _MISSING)
        return False
    return await handling.enter(rule)


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
        url: as clients send it, such as `str(request.url_for("product", product_id=7))`. In a handler, it may be
            relative.
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
