"""A request of an aiohttp application, from the lookup to the end of the handler's run."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from contextvars import ContextVar
from typing import Any, Final, NamedTuple

from aiohttp import web
from aiohttp.typedefs import Handler

from async_redis_cache import CacheError

from .aiohttp_messages import fields_of, lines_of, response_of
from .exchange import Exchange, Reply
from .fields import lower, replaced
from .handlers import is_routed_to
from .invalidation import Target, is_write, keys_of_write
from .keys import request_of
from .lookup import look_up
from .response_log import log_stale_response
from .response_options import Rule
from .response_store import ResponseStore
from .run import Run
from .tags_header import TagsHeader

__all__ = ["CURRENT", "Handling", "Settings", "before_sending"]


class Settings(NamedTuple):
    """Where the middleware stores responses, and its options."""

    store: ResponseStore
    name: str
    tags_header: TagsHeader | None
    shows_key: bool


class Handling:
    """A request that the middleware is handling."""

    def __init__(
        self,
        settings: Settings,
        request: web.Request,
        handler: Handler,
        *,
        has_client: bool = True,
    ) -> None:
        self.run: Run | None = None
        self._settings = settings
        self._request = request
        self._handler = handler
        self._has_client = has_client
        self._is_sent = False
        """Whether the handler sends the response itself."""
        self._reply: Reply | None = None
        """A response from the cache, which replaces that of the handler."""
        self._early_tags: tuple[str, ...] = ()
        """Tags that were added before there was a run."""

    async def response(self, rule: Rule | None) -> web.StreamResponse:
        """Return the response: from the cache, or of the handler."""
        reply = None if rule is None else await self.enter(rule)
        if reply is not None:
            return response_of(reply)
        token = CURRENT.set(self)
        try:
            return await self._run_handler()
        finally:
            CURRENT.reset(token)
            if self.run is not None:
                await self.run.end()

    async def enter(self, rule: Rule, *, is_routed: bool = False) -> Reply | None:
        """Return the response from the cache; None if the handler has to run.

        Args:
            rule: of the route.
            is_routed: whether what runs already, such as a view, may answer the conditions of the client.
        """
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
            is_routed=is_routed,
            observe=self._settings.store.observer(self._route, rule),
        )
        found = await look_up(exchange, self._rerun)
        if isinstance(found, Run):
            found.tags.update(self._early_tags)
            self.run = found
        else:
            self._reply = found
        return self._reply

    def add_tags(self, tags: tuple[str, ...]) -> None:
        """Add tags to the response, also before the cache is read, as a dependency of the handler may do."""
        if self.run is None:
            self._early_tags += tags
        else:
            self.run.tags.update(tags)

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
        except Exception as error:
            stale = None if self.run is None else self.run.failed()
            if stale is None:
                raise
            log_stale_response(error)
            return response_of(stale)
        if self._reply is not None:
            return response_of(self._reply)
        if not self._is_sent:
            self._take_tags(response)
            if self.run is not None:
                response = await self._collected(self.run, response)
            await self._invalidate(response)
        if isinstance(response, web.HTTPException):
            raise response
        return response

    async def begin_sending(self, response: web.StreamResponse) -> None:
        """Let no request wait for a response that the handler sends itself, and complete its header.

        Raises:
            RuntimeError: there is no client.
        """
        if not self._has_client:
            # It would be sent to the client of the request that was answered already.
            raise RuntimeError("a response that is revalidated cannot be sent by its handler")
        self._is_sent = True
        self._take_tags(response)
        if self.run is not None:
            fields = fields_of(response)
            self.run.give_up()
            sent = self.run.start(response.status, fields)
            if sent is not None:
                response.headers.extend(lines_of(sent[len(fields) :]))
        await self._invalidate(response)

    def _take_tags(self, response: web.StreamResponse) -> None:
        """Take the tags of the response from its header."""
        if self._settings.tags_header is not None:
            self._settings.tags_header.take(fields_of(response), self.run)
            response.headers.popall(self._settings.tags_header.name, None)

    async def _collected(self, run: Run, response: web.StreamResponse) -> web.StreamResponse:
        fields = fields_of(response)
        body = response.body if isinstance(response, web.Response) else None
        if body is None and isinstance(response, web.Response):
            body = b""
        is_whole = isinstance(body, bytes | bytearray) and not response.prepared
        sent = run.start(response.status, fields, is_collected=is_whole)
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
        if isinstance(body, bytes | bytearray):
            sent = run.tagged(sent, bytes(body))
            run.body(bytes(body), is_last=True)
        if not response.prepared:
            response.headers.extend(lines_of(sent[len(fields) :]))
        await run.end()
        return response

    async def _rerun(self, run: Run) -> None:
        """Run the handler for a request of the cache itself, to which no client listens."""
        request = self._request.clone(method="GET", headers=lines_of(run.forward))
        handling = Handling(self._settings, request, self._handler, has_client=False)
        handling.run = run
        token = CURRENT.set(handling)
        try:
            await handling._run_handler()
        finally:
            CURRENT.reset(token)

    @property
    def target(self) -> Target:
        """What the request is for."""
        request = self._request
        path, query = request.rel_url.raw_path, request.rel_url.raw_query_string
        fields = lower(request.raw_headers)
        if request.host != request.headers.get("Host", request.host):
            # The host of a target in absolute form, which handlers see instead (RFC 9112, section 3.2.2).
            fields = replaced(fields, [(b"host", request.url.raw_authority.encode())])
        return Target(request.scheme, path.encode(), query.encode(), fields)

    async def _invalidate(self, response: web.StreamResponse) -> None:
        """Invalidate the responses that a write has changed."""
        if is_write(self._request.method, response.status):
            with suppress(CacheError):
                await self._settings.store.remove_all(
                    keys_of_write(self.target, fields_of(response))
                )


async def before_sending(_: web.Request, response: web.StreamResponse) -> None:
    """Handle a response that a handler, which is running still, begins to send: a signal of aiohttp."""
    handling = CURRENT.get()
    if handling is not None:
        await handling.begin_sending(response)


CURRENT: Final[ContextVar[Handling | None]] = ContextVar(
    "async_redis_cache.aiohttp_response", default=None
)
"""The request that is being handled."""
