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

import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import suppress
from contextvars import ContextVar
from functools import wraps
from typing import Any, Final, NamedTuple, TypeVar, Unpack
from weakref import WeakKeyDictionary

try:
    from aiohttp import web
    from aiohttp.typedefs import Handler, Middleware
except ImportError as _error:
    raise ImportError(
        "async_redis_cache.aiohttp needs the extra 'aiohttp': "
        "pip install 'async-redis-cache[aiohttp]'"
    ) from _error

from async_redis_cache import AsyncRedisCache, CacheError
from async_redis_cache._http.aiohttp_messages import fields_of, lines_of, lower, response_of
from async_redis_cache._http.exchange import Exchange, Reply
from async_redis_cache._http.fields import Fields
from async_redis_cache._http.handlers import CALLED, is_routed_to, warn_without_effect
from async_redis_cache._http.invalidation import Target, is_write, keys_of_url, keys_of_write
from async_redis_cache._http.keys import request_of
from async_redis_cache._http.lookup import look_up
from async_redis_cache._http.response_options import PathRules, ResponseOptions, Rule
from async_redis_cache._http.response_store import ResponseStore, records_of
from async_redis_cache._http.run import Run
from async_redis_cache._http.tags_header import TagsHeader

__all__ = [
    "CACHE",
    "ResponseOptions",
    "add_response_tags",
    "cache_context",
    "cache_response",
    "get_cache",
    "invalidate_url",
    "response_cache",
]


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
        name: of the cache in `Cache-Status`, a token.
        tags_header: the name of a header field in which handlers send tags of a response, separated by commas. It is
            neither stored nor sent, but with a response that the handler sends itself.
        shows_key: whether `Cache-Status` has the URI that a response is stored under, to find out why two requests do not
            share one.

    Raises:
        ValueError: an option of the rules, or `tags_header`, is invalid.
    """
    by_path = PathRules(rules)
    taken = None if tags_header is None else TagsHeader(tags_header)
    settings: WeakKeyDictionary[AsyncRedisCache, _Settings] = WeakKeyDictionary()

    @web.middleware
    async def middleware(request: web.Request, handler: Handler) -> web.StreamResponse:
        cache = get_cache(request, key)
        found = settings.get(cache)
        if found is None:
            store = ResponseStore(records_of(cache, namespace))
            found = settings[cache] = _Settings(store, name, taken, shows_key)
        handling = _Handling(found, request, handler)
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
        ValueError: a duration is negative.
    """
    rule = Rule(options)

    def decorate(
        handler: Callable[[S], Awaitable[web.StreamResponse]],
    ) -> Callable[[S], Awaitable[web.StreamResponse]]:
        @wraps(handler)
        async def cached(request: Any) -> web.StreamResponse:
            handling = _CURRENT.get()
            if handling is None:
                warn_without_effect(f"cache_response of {handler.__qualname__}", _MISSING)
            elif handling.is_for(cached):
                if await handling.enter(rule) is not None:
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
    """Add tags to the response that the running handler returns. They apply only if it is stored."""
    handling = _CURRENT.get()
    if handling is not None and handling.run is not None:
        handling.run.tags.update(tags)


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
        ValueError: the URL is not one of http or https, or is relative outside of a handler.
        CacheError: the response may be stored still.
    """
    handling = _CURRENT.get()
    target = None if handling is None else handling.target
    await records_of(cache, namespace).delete_many(keys_of_url(url, headers, target))


class _Settings(NamedTuple):
    """Where the middleware stores responses, and its options."""

    store: ResponseStore
    name: str
    tags_header: TagsHeader | None
    shows_key: bool


class _Handling:
    """A request that the middleware is handling."""

    def __init__(self, settings: _Settings, request: web.Request, handler: Handler) -> None:
        self.run: Run | None = None
        self._settings = settings
        self._request = request
        self._handler = handler
        self._reply: Reply | None = None
        """A response from the cache, which replaces that of the handler."""

    async def response(self, rule: Rule | None) -> web.StreamResponse:
        """Return the response: from the cache, or of the handler."""
        reply = None if rule is None else await self.enter(rule)
        if reply is not None:
            return response_of(reply)
        token = _CURRENT.set(self)
        try:
            return await self._run_handler()
        finally:
            _CURRENT.reset(token)
            if self.run is not None:
                await self.run.end()

    async def enter(self, rule: Rule) -> Reply | None:
        """Return the response from the cache; None if the handler has to run."""
        if self.run is not None or self._reply is not None:
            return self._reply
        received, target = self._request, self.target
        query = rule.query(target.query)
        request = request_of(received.method, target.scheme, target.path, query, target.fields)
        if request is None:
            return None
        exchange = Exchange(
            self._settings.store,
            rule,
            request,
            request.target,
            identity=rule.identity(received),
            name=self._settings.name,
            shows_key=self._settings.shows_key,
            observe=self._settings.store.observer(self._route, rule),
        )
        found = await look_up(exchange, self._rerun)
        if isinstance(found, Run):
            self.run = found
        else:
            self._reply = found
        return self._reply

    def is_for(self, handler: Callable[..., Any]) -> bool:
        """Return whether the application routed the request to this handler, and does not call it in another one."""
        return is_routed_to(self._request.match_info.handler, handler)

    def _route(self, rule: Rule) -> str:
        """Return the pattern of the rule, or the path template of the route, or the name of its handler."""
        if rule.pattern is not None:
            return rule.pattern
        route = self._request.match_info.route
        if route.resource is None:
            return str(getattr(route.handler, "__qualname__", ""))
        return route.resource.canonical

    def forwarded(self, request: web.Request) -> web.Request:
        """Return the request for the handler, with the conditions of the cache instead of those of the client."""
        run = self.run
        if run is None or run.forward == lower(request.raw_headers):
            return request
        return request.clone(method=request.method, headers=lines_of(run.forward))

    async def _run_handler(self) -> web.StreamResponse:
        """Run the handler, and store its response if it may be stored."""
        try:
            response = await self._handler(self.forwarded(self._request))
        except web.HTTPException as raised:
            # It is a response too, and may be one that is remembered, such as 404.
            response = raised
        except Exception:
            stale = None if self.run is None else self.run.failed()
            if stale is None:
                raise
            _LOG.exception("the handler failed, and a stale response was served instead")
            return response_of(stale)
        if self._reply is not None:
            return response_of(self._reply)
        self._take_tags(response)
        if self.run is not None:
            response = await self._collected(self.run, response)
        if is_write(self._request.method, response.status):
            await self._invalidate(fields_of(response))
        if isinstance(response, web.HTTPException):
            raise response
        return response

    def _take_tags(self, response: web.StreamResponse) -> None:
        """Take the tags of the response from its header."""
        if self._settings.tags_header is not None and not response.prepared:
            self._settings.tags_header.take(fields_of(response), self.run)
            response.headers.popall(self._settings.tags_header.name, None)

    async def _collected(self, run: Run, response: web.StreamResponse) -> web.StreamResponse:
        fields = fields_of(response)
        sent = run.start(response.status, fields)
        body = response.body if isinstance(response, web.Response) else None
        if body is None and isinstance(response, web.Response):
            body = b""
        if sent is None:
            run.body(b"", is_last=True)
            reply = await run.end()
            if reply is None:
                # The handler confirmed a response other than the stored one.
                run.forward = run.unconditional
                response = await self._handler(self.forwarded(self._request))
                self._take_tags(response)
                return response
            return response_of(reply)
        if response.prepared:
            # A stream that the handler has sent already.
            run.give_up()
            return response
        if isinstance(body, bytes | bytearray):
            sent = run.tagged(sent, bytes(body))
            run.body(bytes(body), is_last=True)
        else:
            run.give_up()
        response.headers.extend(lines_of(sent[len(fields) :]))
        await run.end()
        return response

    async def _rerun(self, run: Run) -> None:
        """Run the handler for a request of the cache itself, to which no client listens."""
        request = self._request.clone(method="GET", headers=lines_of(run.forward))
        handling = _Handling(self._settings, request, self._handler)
        handling.run = run
        token = _CURRENT.set(handling)
        try:
            await handling._run_handler()
        finally:
            _CURRENT.reset(token)

    @property
    def target(self) -> Target:
        """What the request is for."""
        request = self._request
        path, query = request.rel_url.raw_path, request.rel_url.raw_query_string
        fields = lower(request.raw_headers)
        return Target(request.scheme, path.encode(), query.encode(), fields)

    async def _invalidate(self, response: Fields) -> None:
        with suppress(CacheError):
            await self._settings.store.remove_all(keys_of_write(self.target, response))


_CURRENT: Final[ContextVar[_Handling | None]] = ContextVar(
    "async_redis_cache.aiohttp_response", default=None
)
_MISSING: Final = (
    "the request was not handled by the middleware of the cache, which is added with "
    "web.Application(middlewares=[response_cache()])"
)
_LOG: Final = logging.getLogger("async_redis_cache")
