"""Applications under `ResponseCache`, and clients of them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Iterable
from contextlib import asynccontextmanager
from typing import Any, NamedTuple
from urllib.parse import unquote
from weakref import WeakKeyDictionary

import httpx

from async_redis_cache import AsyncRedisCache
from async_redis_cache.asgi import ResponseCache, ResponseOptions

from .servers import Server

__all__ = ["Answer", "ask", "client_of", "scope_of", "waiting", "waiting_requests"]

_CACHES: WeakKeyDictionary[httpx.AsyncClient, AsyncRedisCache] = WeakKeyDictionary()
"""The caches of the middleware in front of which clients are."""


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
            _CACHES[client] = cache
            yield client
        await cached.close()


def waiting(cache: AsyncRedisCache) -> int:
    """Return how many requests wait for the end of a run, those included that run the handler."""
    loads = cache._lifecycle.ready().engine.single_flight._in_flight.values()
    return sum(len(load.waiting) for load in loads)


def waiting_requests(client: httpx.AsyncClient) -> int:
    """Return how many requests of a client of `client_of` wait. See `waiting`."""
    return waiting(_CACHES[client])


class Answer(NamedTuple):
    """A response.

    Attributes:
        status: the status code.
        headers: with names in lower case; of a field with several lines, the last.
        body: the content.
    """

    status: int
    headers: dict[str, str]
    body: bytes


def scope_of(
    path: str,
    headers: Iterable[tuple[str, str]] = (("host", "shop"),),
    *,
    method: str = "GET",
    scheme: str = "http",
    query: str = "",
) -> dict[str, Any]:
    """Return the scope of a request. See `ask`."""
    return {
        "type": "http",
        "asgi": {"version": "3.0"},
        "http_version": "1.1",
        "method": method,
        "scheme": scheme,
        "path": unquote(path),
        "raw_path": path.encode("latin-1"),
        "query_string": query.encode("latin-1"),
        "root_path": "",
        "headers": [(name.encode(), value.encode("latin-1")) for name, value in headers],
        "client": ("127.0.0.1", 1),
        "server": ("shop", 80),
    }


async def ask(
    app: Any,
    path: str = "/page",
    headers: Iterable[tuple[str, str]] = (("host", "shop"),),
    *,
    method: str = "GET",
    scheme: str = "http",
    query: str = "",
) -> Answer:
    """Call an application as a server does, with a request that no client library has put right.

    Args:
        app: the application.
        path: with its percent-encoding.
        headers: in their order.
        method: of the request.
        scheme: of the request.
        query: without "?".
    """
    sent: list[Any] = []

    async def send(message: Any) -> None:
        sent.append(message)

    messages = [{"type": "http.request", "body": b"", "more_body": False}]

    async def receive() -> Any:
        if messages:
            return messages.pop()
        # The client waits.
        return await asyncio.get_running_loop().create_future()

    scope = scope_of(path, headers, method=method, scheme=scheme, query=query)
    await app(scope, receive, send)
    start, *parts = sent
    fields = {name.decode(): value.decode("latin-1") for name, value in start["headers"]}
    return Answer(start["status"], fields, b"".join(part.get("body", b"") for part in parts))
