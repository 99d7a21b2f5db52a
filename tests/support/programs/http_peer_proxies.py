"""Reverse proxies under other caches of HTTP responses, for `uvicorn http_peer_proxies:app`.

In the environment, PEER is the name of the package, or "none", CACHE the URL of the server, and ORIGIN what the proxy
asks. hishel's middleware is in front of the proxy. The others cache what route handlers return, so the handler of
their only route asks the origin. It takes GET and HEAD; other methods are passed on.
"""

import os
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from email.utils import formatdate
from importlib import import_module
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import redis.asyncio
from fastapi import Depends, FastAPI, Request, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from harness.http_origin import Origin, Proxy

PEER = os.environ["PEER"]
URL = os.environ["CACHE"]
TTL = 60
"""Seconds for which the caches that do not ask the response keep it: the default of Litestar."""
METHODS = ["GET", "HEAD"]
SECRET = "0123456789abcdef0123456789abcdef"

origin = Origin(os.environ["ORIGIN"])
passing = Proxy(origin)


async def read(request: Request) -> Response:
    """Ask the origin: the handler of the caches that store what one returns."""
    return await origin.read(request)


def application(
    decorate: Callable[[Any], Any] = lambda endpoint: endpoint, *dependencies: Any
) -> FastAPI:
    """Return an application whose only route is cached."""
    app = FastAPI(openapi_url=None)
    app.api_route("/{path:path}", methods=METHODS, dependencies=dependencies)(decorate(read))
    return app


def key_of(function: object, namespace: str = "", *, request: Request, **_: object) -> str:
    """Build the key that both documentations show: of the method, the path and the query."""
    query = repr(sorted(request.query_params.items()))
    return f"{namespace}:{request.method.lower()}:{request.url.path}:{query}"


@asynccontextmanager
async def none() -> AsyncGenerator[ASGIApp]:
    """No cache at all."""
    yield passing


@asynccontextmanager
async def hishel() -> AsyncGenerator[ASGIApp]:
    """A shared cache that follows RFC 9111, in the store in a file: both are its defaults.

    It stores a response after it has been sent, so that the next request of the suite may be too early for its store
    in Redis, which is slower.
    """
    store: Any = import_module("hishel").AsyncSqliteStorage
    middleware: Any = import_module("hishel.asgi").ASGICacheMiddleware
    with TemporaryDirectory() as folder:
        app = middleware(passing, storage=store(database_path=Path(folder) / "hishel.db"))
        yield app
        await app.aclose()


@asynccontextmanager
async def fastapi_redis_sdk() -> AsyncGenerator[ASGIApp]:
    """Its dependency."""
    sdk: Any = import_module("redis_fastapi")
    sdk.get_settings().url = URL
    app = application(lambda endpoint: endpoint, Depends(sdk.cache(ttl=TTL)))
    sdk.FastAPIRedis(app).lifespan().caching()
    async with app.router.lifespan_context(app):
        yield app


@asynccontextmanager
async def fastapi_alcazaba() -> AsyncGenerator[ASGIApp]:
    """Its decorator, with the coder for whole responses."""
    cache: Any = import_module("fastapi_alcazaba").FastAPICache
    backend: Any = import_module("fastapi_alcazaba.backends.redis").RedisBackend
    decorator: Any = import_module("fastapi_alcazaba.decorator")
    coder: Any = import_module("fastapi_alcazaba.coder").PickleCoder
    async with redis.asyncio.from_url(URL) as client:
        cache.init(backend(client), prefix="proxy", signing_key=SECRET, distributed_lock=True)
        yield application(decorator.cache(expire=TTL, coder=coder, key_builder=key_of))


@asynccontextmanager
async def fastapi_cache2() -> AsyncGenerator[ASGIApp]:
    """Its decorator, with the coder for whole responses."""
    cache: Any = import_module("fastapi_cache").FastAPICache
    backend: Any = import_module("fastapi_cache.backends.redis").RedisBackend
    decorator: Any = import_module("fastapi_cache.decorator")
    coder: Any = import_module("fastapi_cache.coder").PickleCoder
    async with redis.asyncio.from_url(URL) as client:
        cache.init(backend(client), prefix="proxy")
        yield application(decorator.cache(expire=TTL, coder=coder, key_builder=key_of))


@asynccontextmanager
async def litestar() -> AsyncGenerator[ASGIApp]:
    """The cache of its route handlers, which may return a response of Starlette."""
    package: Any = import_module("litestar")
    store: Any = import_module("litestar.stores.redis").RedisStore

    async def handle(request: Any) -> Any:
        return await read(Request(request.scope, request.receive))

    # Litestar reads the annotations, which cannot name what is imported here.
    handle.__annotations__ = {"request": package.Request, "return": Response}
    route = package.route(["/", "/{path:path}"], http_method=METHODS, cache=TTL)
    async with redis.asyncio.from_url(URL) as client:
        app = package.Litestar(
            [route(handle)],
            stores={"response_cache": store(client)},
            openapi_config=None,
            logging_config=None,
        )
        async with app.lifespan():
            yield app


PROXIES: Mapping[str, Callable[[], AbstractAsyncContextManager[ASGIApp]]] = {
    "none": none,
    "hishel": hishel,
    "fastapi-redis-sdk": fastapi_redis_sdk,
    "fastapi-alcazaba": fastapi_alcazaba,
    "litestar": litestar,
    "fastapi-cache2": fastapi_cache2,
}
IN_FRONT = ("none", "hishel")
"""Those that see all methods."""


def dating(send: Send) -> Callable[[Message], Awaitable[None]]:
    """Add the `Date` that uvicorn adds, where there is none: fastapi-redis-sdk leaves it to the server."""

    async def dated(message: Message) -> None:
        if message["type"] == "http.response.start":
            names = [name.lower() for name, _ in message["headers"]]
            if b"date" not in names:
                date = formatdate(usegmt=True).encode()
                message = {**message, "headers": [*message["headers"], (b"date", date)]}
        await send(message)

    return dated


class Served:
    """The application of uvicorn."""

    def __init__(self) -> None:
        self._app: ASGIApp

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle a request, or the lifespan."""
        if scope["type"] == "lifespan":
            await receive()
            async with origin, PROXIES[PEER]() as self._app:
                await send({"type": "lifespan.startup.complete"})
                await receive()
            await send({"type": "lifespan.shutdown.complete"})
        elif PEER in IN_FRONT or scope["method"] in METHODS:
            await self._app(scope, receive, dating(send))
        else:
            await passing(scope, receive, send)


app = Served()
