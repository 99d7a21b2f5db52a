"""Cache the responses of an ASGI application, as a shared HTTP cache by RFC 9111.

    app.add_middleware(ResponseCache, cache=cache)

    @app.get("/products/{product_id}")
    @cache_response(ttl=60)
    async def product(product_id: int) -> Product: ...

The middleware stores nothing by itself: a route is opted in with `cache_response`, by a pattern of the middleware's
`rules`, or with `rules={"*": {}}` and what the `Cache-Control` of each response says.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable, Mapping
from contextvars import ContextVar
from functools import partial, wraps
from inspect import iscoroutinefunction
from typing import Any, Final, ParamSpec, Unpack

import anyio

from async_redis_cache import AsyncRedisCache, CacheError
from async_redis_cache._http.asgi_frameworks import handler_of, placeholder, route_of
from async_redis_cache._http.asgi_messages import (
    ASGIApp,
    Message,
    NoBody,
    Receive,
    Scope,
    Send,
    discard,
    is_stream,
    lower,
    path_of,
    send_reply,
)
from async_redis_cache._http.exchange import Exchange, Reply
from async_redis_cache._http.fields import Fields
from async_redis_cache._http.handlers import is_routed_to, warn_of_missing_middleware
from async_redis_cache._http.invalidation import Target, is_write, keys_of_url, keys_of_write
from async_redis_cache._http.keys import request_of
from async_redis_cache._http.lookup import look_up
from async_redis_cache._http.response_options import PathRules, ResponseOptions, Rule
from async_redis_cache._http.response_store import ResponseStore, records_of
from async_redis_cache._http.run import Run
from async_redis_cache._http.tags_header import TagsHeader

__all__ = [
    "ResponseCache",
    "ResponseOptions",
    "add_response_tags",
    "cache_response",
    "invalidate_url",
]

P = ParamSpec("P")
_UNSEEN_CONTENT: Final = frozenset(
    {"http.response.pathsend", "http.response.zerocopysend", "http.response.trailers"}
)
"""Messages with content that only the server sees."""
_REMEDY: Final = "app.add_middleware(ResponseCache, cache=cache)"
_LOG: Final = logging.getLogger("async_redis_cache")


class ResponseCache:
    """ASGI middleware that caches responses.

    Args:
        app: the application.
        cache: open while the application serves.
        namespace: the name of the namespace of the responses.
        rules: patterns of paths, with "*" for any text, and the options of their routes. The first that matches
            applies, and the `cache_response` of a handler does not.
        name: of the cache in `Cache-Status`, a token.
        tags_header: the name of a header field in which the application sends tags of a response, separated by commas.
            It is neither stored nor sent.
        shows_key: whether `Cache-Status` has the URI that a response is stored under, to find out why two requests do not
            share one.

    Raises:
        ValueError: an option of the rules, or `tags_header`, is invalid.
    """

    def __init__(
        self,
        app: ASGIApp,
        *,
        cache: AsyncRedisCache,
        namespace: str = "responses",
        rules: Mapping[str, ResponseOptions] | None = None,
        name: str = "async-redis-cache",
        tags_header: str | None = None,
        shows_key: bool = False,
    ) -> None:
        self.app = app
        self.name = name
        self.shows_key = shows_key
        self.tags_header: TagsHeader | None = (
            None if tags_header is None else TagsHeader(tags_header)
        )
        self.store: ResponseStore = ResponseStore(records_of(cache, namespace))
        self._rules = PathRules(rules)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle a request."""
        if scope["type"] != "http":
            try:
                await self.app(scope, receive, send)
            finally:
                if scope["type"] == "lifespan":
                    await self.close()
            return
        handling, rule = _Handling(self, scope, receive, send), self._rules.find(scope["path"])
        reply = None if rule is None else await handling.look_up(rule)
        if reply is not None:
            await send_reply(send, reply)
            return
        token = _CURRENT.set(handling)
        try:
            await handling.handle()
        finally:
            _CURRENT.reset(token)

    async def close(self) -> None:
        """End what runs in the background: requests of the cache itself that revalidate stale responses."""
        await self.store.close()


class _Handling:
    """A request that the middleware is handling."""

    def __init__(
        self, middleware: ResponseCache, scope: Scope, receive: Receive, send: Send
    ) -> None:
        self.run: Run | None = None
        self._middleware = middleware
        self._entered = scope
        """The scope before the application routed the request."""
        self._scope = scope
        self._receive = receive
        self._send = send
        self._start: Message | None = None
        """A start that waits for the first part of the body."""
        self._is_held = False
        self._storing: asyncio.Task[Reply | None] | None = None
        self._reply: Reply | None = None
        """A response from the cache, which replaces that of the application."""

    async def handle(self) -> None:
        """Run the application, and send its response or the one that replaces it."""
        self._entered = dict(self._scope)
        if "state" in self._scope:
            # The application adds to it what ends with the request.
            self._entered["state"] = dict(self._scope["state"])
        try:
            await self._run_app()
        finally:
            if self.run is not None:
                await self.run.end()
            if self._storing is not None:
                await asyncio.shield(self._storing)
        if self._reply is not None:
            await send_reply(self._send, self._reply)

    async def _run_app(self) -> None:
        try:
            await self._middleware.app(self._scope, self._receive, self.send)
            await self._end()
        except Exception:
            stale = None if self.run is None else self.run.failed()
            if stale is None:
                raise
            self._reply = stale
            _LOG.exception("the application failed, and a stale response was served instead")

    async def enter(self, rule: Rule) -> bool:
        """Look into the cache in the handler of the application; return whether the response is there.

        If it is, whatever the application sends is replaced by it.
        """
        if self.run is None and self._reply is None:
            self._reply = await self.look_up(rule, is_routed=True)
        return self._reply is not None

    async def look_up(self, rule: Rule, *, is_routed: bool = False) -> Reply | None:
        """Return the response from the cache; None if the application has to run."""
        scope, middleware = self._scope, self._middleware
        # Their names are in lower case by the specification of ASGI.
        fields: Fields = tuple(scope["headers"])
        entered, query = self._entered, rule.query(scope["query_string"])
        request = request_of(scope["method"], entered["scheme"], path_of(entered), query, fields)
        if request is None:
            return None
        exchange = Exchange(
            middleware.store,
            rule,
            request,
            request.target,
            identity=rule.identity(scope),
            name=middleware.name,
            shows_key=middleware.shows_key,
            is_routed=is_routed,
            observe=middleware.store.observer(self._route, rule),
        )
        found = await look_up(exchange, self._rerun)
        if isinstance(found, Reply):
            return found
        self.run = found
        # The same object: a handler that is running has it.
        scope["headers"] = list(found.forward)
        return None

    def _route(self, rule: Rule) -> str:
        """Return the pattern of the rule, or the path template of the route, or the name of its handler."""
        return route_of(self._scope) if rule.pattern is None else rule.pattern

    async def send(self, message: Message) -> None:
        """Pass a message of the application on, and collect it."""
        if self._reply is not None:
            return
        run, kind = self.run, message["type"]
        if kind == "http.response.start":
            message = self._without_tags(message)
            if is_write(self._scope["method"], message["status"]):
                await self._invalidate(lower(message.get("headers", ())))
            if run is not None:
                fields = run.start(message["status"], lower(message.get("headers", ())))
                self._is_held = fields is None
                if fields is not None:
                    message = {**message, "headers": list(fields)}
                    if message.get("trailers") or is_stream(fields):
                        # Requests would wait for the end of the stream.
                        run.give_up()
                    if run.is_collecting:
                        self._start = message
                        return
        elif run is not None:
            await self._send_content(run, message)
            return
        if not self._is_held:
            await self._send(message)

    def _without_tags(self, start: Message) -> Message:
        """Take the tags of the response from its header."""
        tags_header = self._middleware.tags_header
        if tags_header is None:
            return start
        fields = tags_header.take(lower(start.get("headers", ())), self.run)
        return {**start, "headers": list(fields)}

    async def _send_content(self, run: Run, message: Message) -> None:
        kind = message["type"]
        is_body = kind == "http.response.body"
        is_last = is_body and not message.get("more_body", False)
        if is_body:
            run.body(message.get("body", b""), is_last=is_last)
            await self._send_start(message.get("body", b"") if is_last else None)
        elif kind in _UNSEEN_CONTENT:
            run.give_up()
            await self._send_start(None)
        if not self._is_held:
            await self._send(message)
            if is_last:
                # In a task: what the application does now, such as background tasks, does not delay other requests,
                # and frameworks cancel a stream as soon as the server reports that the client has all of it.
                self._storing = self._middleware.store.start(run.end())

    async def _send_start(self, whole_body: bytes | None) -> None:
        start, self._start = self._start, None
        if start is not None and self.run is not None:
            if whole_body is not None:
                start["headers"] = list(self.run.tagged(tuple(start["headers"]), whole_body))
            await self._send(start)

    async def _end(self) -> None:
        if self.run is None or self._reply is not None:
            return
        self._reply = await self.run.end()
        if self._reply is None and self._is_held:
            # The application confirmed a response other than the stored one.
            self._is_held = False
            scope = self._own_scope(self.run.unconditional)
            await self._middleware.app(scope, NoBody(), self._pass_on)

    async def _pass_on(self, message: Message) -> None:
        """Send a message of a response that is not stored."""
        is_start = message["type"] == "http.response.start"
        await self._send(self._without_tags(message) if is_start else message)

    async def _rerun(self, run: Run) -> None:
        """Run the application for a request of the cache itself, to which no client listens."""
        receive = NoBody()
        scope: Scope = {**self._own_scope(run.forward), "method": "GET", "extensions": {}}
        handling = _Handling(self._middleware, scope, receive, discard)
        handling.run = run
        token = _CURRENT.set(handling)
        try:
            await self._middleware.app(handling._scope, receive, handling.send)
        finally:
            _CURRENT.reset(token)

    def _own_scope(self, fields: Fields) -> Scope:
        """Return the scope that the middleware was called with, with other header fields."""
        scope = {**self._entered, "headers": list(fields)}
        if "state" in scope:
            scope["state"] = dict(scope["state"])
        return scope

    @property
    def target(self) -> Target:
        """What the request is for."""
        scope = self._entered
        root = self._scope.get("app_root_path") or self._scope.get("root_path", "")
        fields: Fields = tuple(scope["headers"])
        return Target(scope["scheme"], path_of(scope), scope["query_string"], fields, root)

    async def _invalidate(self, response: Fields) -> None:
        with contextlib.suppress(CacheError):
            await self._middleware.store.remove_all(keys_of_write(self.target, response))

    def placeholder(self) -> Any:
        """Return a response for the framework to send, which is replaced.

        Raises:
            RuntimeError: the framework is not known.
        """
        return placeholder(self._scope)

    def is_for(self, handler: Callable[..., Any]) -> bool:
        """Return whether the application routed the request to this handler, and does not call it in another one."""
        return is_routed_to(handler_of(self._scope), handler)


_CURRENT: Final[ContextVar[_Handling | None]] = ContextVar(
    "async_redis_cache.response", default=None
)


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
        TypeError: an option is unknown.
        ValueError: a duration is negative.
    """
    prepared = Rule(options)

    def decorate(handler: Callable[P, Any]) -> Callable[P, Awaitable[Any]]:
        @wraps(handler)
        async def cached(*args: P.args, **kwargs: P.kwargs) -> Any:
            handling = _CURRENT.get()
            if handling is None:
                warn_of_missing_middleware(f"cache_response of {handler.__qualname__}", _REMEDY)
            elif handling.is_for(cached):
                replaced = handling.placeholder()
                if await handling.enter(prepared):
                    return replaced
            if iscoroutinefunction(handler):
                return await handler(*args, **kwargs)
            return await anyio.to_thread.run_sync(partial(handler, *args, **kwargs))

        return cached

    return decorate


async def is_answered(rule: Rule) -> bool:
    """Ask the cache in a handler, or before; return whether what the application returns is replaced."""
    handling = _CURRENT.get()
    if handling is None:
        warn_of_missing_middleware("the dependency cache_response", _REMEDY)
        return False
    return await handling.enter(rule)


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
        url: as clients send it, such as `str(request.url_for("product", product_id=7))`. In a handler, it may be
            relative.
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
