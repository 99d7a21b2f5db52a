"""A request of an ASGI application, from the lookup to the end of the application's run."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from contextvars import ContextVar
from typing import Any, Final, NamedTuple

from async_redis_cache import CacheError

from .asgi_frameworks import (
    COPIED,
    handler_of,
    is_routed_in_copy,
    placeholder,
    request_in,
    route_of,
)
from .asgi_messages import (
    ASGIApp,
    Message,
    NoBody,
    Receive,
    Scope,
    Send,
    discard,
    is_stream,
    path_of,
    send_reply,
)
from .exchange import Exchange, Reply
from .fields import Fields, lower
from .handlers import CALLED, is_routed_to
from .invalidation import Target, is_write, keys_of_write
from .keys import request_of
from .lookup import look_up
from .response_log import log_stale_response
from .response_options import Rule
from .response_store import ResponseStore
from .run import Run
from .tags_header import TagsHeader

__all__ = ["CURRENT", "Handling", "Settings"]

_UNSEEN_CONTENT: Final = frozenset(
    {"http.response.pathsend", "http.response.zerocopysend", "http.response.trailers"}
)
"""Messages with content that only the server sees."""


class Settings(NamedTuple):
    """The application, where its responses are stored, and the options of the middleware."""

    app: ASGIApp
    store: ResponseStore
    name: str
    tags_header: TagsHeader | None
    shows_key: bool


class Handling:
    """A request that the middleware is handling."""

    def __init__(self, settings: Settings, scope: Scope, receive: Receive, send: Send) -> None:
        self.run: Run | None = None
        self._settings = settings
        self._entered = scope
        """The scope before the application routed the request."""
        self._scope = scope
        self._receive = receive
        self._has_content = False
        """Whether the application has received content. In HTTP/2, the header need not announce it."""
        self._has_left = False
        """Whether the application knows that the client has left."""
        self._send = send
        self._start: Message | None = None
        """A start that waits for the first part of the body."""
        self._is_held = False
        self._storing: asyncio.Task[Reply | None] | None = None
        self._reply: Reply | None = None
        """A response from the cache, which replaces that of the application."""
        self._early_tags: tuple[str, ...] = ()
        """Tags that were added before there was a run."""

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
            await self._settings.app(self._scope, self.receive, self.send)
            await self._end()
        except Exception as error:
            stale = None if self.run is None else self.run.failed()
            if stale is None:
                if self.run is not None and self._storing is not None:
                    await asyncio.shield(self._storing)
                    await self.run.retract()
                raise
            self._reply = stale
            log_stale_response(error)

    async def receive(self) -> Message:
        """Receive a message for the application."""
        message = await self._receive()
        if message["type"] == "http.disconnect":
            self._has_left = True
        elif message.get("body"):
            self._has_content = True
        return message

    def add_tags(self, tags: tuple[str, ...]) -> None:
        """Add tags to the response, also before the cache is read, as a dependency of the handler may do."""
        if self.run is None:
            self._early_tags += tags
        else:
            self.run.tags.update(tags)

    async def enter(self, rule: Rule) -> bool:
        """Look the response up from the handler of the application; return whether it is in the cache.

        If it is, whatever the application sends is replaced by it.
        """
        if self.run is None and self._reply is None:
            self._reply = await self.look_up(rule, is_routed=True)
        return self._reply is not None

    async def look_up(self, rule: Rule, *, is_routed: bool = False) -> Reply | None:
        """Return the response from the cache; None if the application has to run."""
        scope, settings = self._scope, self._settings
        # Their names are in lower case by the specification of ASGI.
        fields: Fields = tuple(scope["headers"])
        entered, query = self._entered, rule.query(scope["query_string"])
        request = request_of(scope["method"], entered["scheme"], path_of(entered), query, fields)
        if request is None or self._has_content:
            return None
        exchange = Exchange(
            settings.store,
            rule,
            request,
            request.target,
            identity=rule.identity(request_in(scope)) if rule.is_personal else None,
            name=settings.name,
            shows_key=settings.shows_key,
            is_routed=is_routed,
            observe=settings.store.observer(self._route, rule),
        )
        found = await look_up(exchange, self._rerun)
        if isinstance(found, Reply):
            return found
        found.tags.update(self._early_tags)
        self.run = found
        headers = scope["headers"]
        scope["headers"] = list(found.forward)
        is_copied = isinstance(headers, list) and headers is not entered["headers"]
        if is_routed and is_copied and not exchange.keeps_conditions:
            # The handler may have a request that was made with this list.
            headers[:] = found.forward
        return None

    def _route(self, rule: Rule) -> str:
        """Return the pattern of the rule, or the path template of the route, or the name of its handler."""
        return route_of(self._scope) if rule.pattern is None else rule.pattern

    async def send(self, message: Message) -> None:
        """Pass a message of the application on, and collect it."""
        if self._reply is not None:
            return
        if message["type"] == "http.response.start":
            start = await self._begin(self._without_tags(message))
            if start is not None:
                await self._send(start)
        elif self.run is not None:
            await self._send_content(self.run, message)
        else:
            await self._send(message)

    async def _begin(self, start: Message) -> Message | None:
        """Return the start of the response that is to be sent at once; None if there is none."""
        run = self.run
        if is_write(self._scope["method"], start["status"]):
            # They may be an iterator.
            start = {**start, "headers": list(start.get("headers", ()))}
            await self._invalidate(lower(start["headers"]))
        if run is None:
            return start
        if self._has_content:
            # The response may depend on it.
            run.withdraw()
        fields = lower(start.get("headers", ()))
        # Requests would wait for the end of a stream.
        is_collected = not (start.get("trailers") or is_stream(fields))
        sent = run.start(start["status"], fields, is_collected=is_collected)
        self._is_held = sent is None
        if sent is None:
            return None
        start = {**start, "headers": list(sent)}
        if run.is_collecting:
            self._start = start
            return None
        return start

    def _without_tags(self, start: Message) -> Message:
        """Take the tags of the response from its header."""
        tags_header = self._settings.tags_header
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
            if is_last and self._has_left:
                run.break_off()
            await self._send_start(message.get("body", b"") if is_last else None)
        elif kind in _UNSEEN_CONTENT:
            run.give_up()
            await self._send_start(None)
        if not self._is_held:
            if is_last:
                # In a task, and before the client has all of it: neither a client that reads slowly nor what the
                # application does then, such as background tasks, delays other requests; and frameworks cancel a stream
                # as soon as the server reports that the client has all of it.
                self._storing = self._settings.store.start(run.end())
            await self._send(message)

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
            await self._settings.app(scope, NoBody(), self._pass_on)

    async def _pass_on(self, message: Message) -> None:
        """Send a message of a response that is not stored."""
        is_start = message["type"] == "http.response.start"
        await self._send(self._without_tags(message) if is_start else message)

    async def _rerun(self, run: Run) -> None:
        """Run the application for a request of the cache itself, to which no client listens."""
        receive = NoBody()
        scope: Scope = {**self._own_scope(run.forward), "method": "GET", "extensions": {}}
        handling = Handling(self._settings, scope, receive, discard)
        handling.run = run
        token = CURRENT.set(handling)
        try:
            await self._settings.app(handling._scope, receive, handling.send)
        finally:
            CURRENT.reset(token)

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
            await self._settings.store.remove_all(keys_of_write(self.target, response))

    def placeholder(self) -> Any:
        """Return a response for the framework to send, which is replaced.

        Raises:
            RuntimeError: the framework is not known.
        """
        return placeholder(self._scope)

    def is_for(self, handler: Callable[..., Any]) -> bool:
        """Return whether the application routed the request to this handler, and does not call it in another one."""
        routed = handler_of(self._scope)
        if routed is None and is_routed_in_copy(self._scope):
            return False
        return is_routed_to(routed, handler)

    @property
    def why_not(self) -> str:
        """Why `is_for` returns false."""
        return COPIED if is_routed_in_copy(self._scope) else CALLED


CURRENT: Final[ContextVar[Handling | None]] = ContextVar("async_redis_cache.response", default=None)
"""The request that is being handled."""
