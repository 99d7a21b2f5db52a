"""A reverse proxy under `ResponseCache`, for `uvicorn http_proxy:app`. ORIGIN in the environment is what it asks.

Every path is opted in, with all that RFC 9111 allows: the public suite for HTTP caches is run against it.
"""

from __future__ import annotations

import os
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Final

import httpx
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from async_redis_cache import AsyncRedisCache
from async_redis_cache.asgi import ResponseCache, ResponseOptions

ORIGIN: Final = os.environ["ORIGIN"]
HOP_BY_HOP: Final = frozenset(
    {b"connection", b"keep-alive", b"proxy-connection", b"te", b"transfer-encoding", b"upgrade"}
)
RULES: Final[dict[str, ResponseOptions]] = {
    "*": {
        "follows_requests": True,
        "targeted": ("CDN-Cache-Control",),
        "heuristic_ttl": 86_400,
        "stale_if_error": 60,
    }
}

cache = AsyncRedisCache.from_url(os.environ.get("CACHE", "embedded://"))


@asynccontextmanager
async def lifespan(app: Starlette) -> AsyncGenerator[None]:
    """Open the cache and a client of the origin."""
    # The origin of the suite closes connections, so that one that is kept may be closed when it is used again.
    limits = httpx.Limits(max_connections=200, max_keepalive_connections=0)
    async with cache, httpx.AsyncClient(timeout=10, limits=limits) as app.state.client:
        yield


class Proxy:
    """Passes requests on to the origin, and its responses back as they come."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle a request."""
        request = Request(scope, receive)
        response = await self._response(request)
        await response(scope, receive, send)

    async def _response(self, request: Request) -> Response:
        client: httpx.AsyncClient = request.app.state.client
        query = request.scope["query_string"].decode("latin-1")
        url = ORIGIN + request.scope["raw_path"].decode("latin-1") + (f"?{query}" if query else "")
        body = await request.body()
        fields = [
            field
            for field in request.headers.raw
            if field[0] not in {*HOP_BY_HOP, b"content-length"}
        ]
        try:
            asked = httpx.Request(request.method, url, headers=fields, content=body or None)
            received = await client.send(asked, stream=True)
        except httpx.HTTPError:
            return Response("the origin did not answer", 502)
        return _Passed(received)


class _Passed(StreamingResponse):
    """A response of the origin, byte by byte."""

    def __init__(self, received: httpx.Response) -> None:
        super().__init__(received.aiter_raw(), received.status_code)
        self.raw_headers = [
            (name.lower(), value)
            for name, value in received.headers.raw
            if name.lower() != b"transfer-encoding"
        ]
        self._received = received

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the response, and close that of the origin in any case."""
        try:
            await super().__call__(scope, receive, send)
        finally:
            await self._received.aclose()


# An endpoint that is an application itself takes all methods.
proxied = Starlette(routes=[Route("/{path:path}", Proxy())], lifespan=lifespan)
app = ResponseCache(proxied, cache=cache, rules=RULES)
