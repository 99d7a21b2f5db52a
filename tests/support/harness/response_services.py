"""A service with a cached page on each cache of HTTP responses that docs/explanation/http-peers.md compares."""

import json
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field, replace
from importlib import import_module
from typing import Any

import redis.asyncio
from fastapi import Depends, FastAPI, Request, Response
from starlette.responses import StreamingResponse

from async_redis_cache import AsyncRedisCache
from async_redis_cache.asgi import ResponseCache, cache_response

__all__ = [
    "SERVICES",
    "App",
    "Handler",
    "Reply",
    "Service",
    "Site",
    "application",
    "serve_fastapi_alcazaba",
    "serve_ours",
]

App = Any
"""An ASGI application."""

SECRET = "0123456789abcdef0123456789abcdef"


@dataclass(frozen=True, slots=True)
class Reply:
    """What a handler returns.

    Attributes:
        content: a value for JSON, bytes, or an iterator of the chunks of an event stream.
        headers: fields that the handler sets.
        status: the status code.
    """

    content: Any
    headers: Mapping[str, str] = field(default_factory=dict[str, str])
    status: int = 200


Handler = Callable[[Mapping[str, str]], Awaitable[Reply]]
"""Gets the fields of a request."""


@dataclass(frozen=True, slots=True)
class Site:
    """What a service has to serve.

    `/page` is opted in, for GET and HEAD; PUT of it writes. `/plain` has the same handler and is not opted in.

    Attributes:
        read: the handler of the page.
        write: changes what the handler reads.
        ttl: seconds for which the page is fresh, if its response does not say.
        has_values: whether the content is JSON. The caches of values need another coder for anything else.
    """

    read: Handler
    write: Callable[[], None]
    ttl: int
    has_values: bool


@dataclass(frozen=True, slots=True)
class Service:
    """An application, and the request that writes and invalidates by the means that the cache has for this."""

    app: App
    invalidation: tuple[str, str] = ("POST", "/write")


Start = Callable[[Site, str], AbstractAsyncContextManager[Service]]


def is_stream(reply: Reply) -> bool:
    return isinstance(reply.content, AsyncIterator)


def as_response(reply: Reply) -> Response:
    """Return the response of Starlette; JSON is written without spaces, as FastAPI does."""
    headers = dict(reply.headers)
    if is_stream(reply):
        return StreamingResponse(reply.content, reply.status, headers, "text/event-stream")
    if isinstance(reply.content, bytes):
        return Response(reply.content, reply.status, headers, "application/octet-stream")
    text = json.dumps(reply.content, separators=(",", ":"))
    return Response(text, reply.status, headers, "application/json")


def application(
    site: Site,
    *,
    decorate: Callable[[Any], Any] = lambda endpoint: endpoint,
    reading: Sequence[Any] = (),
    writing: Sequence[Any] = (),
    invalidate: Callable[[], Awaitable[object]] | None = None,
) -> FastAPI:
    """Return the application in FastAPI.

    Args:
        site: what to serve.
        decorate: opts the page in.
        reading: dependencies that do so.
        writing: dependencies of the route that writes.
        invalidate: is called by this route.
    """
    app = FastAPI()

    async def page(request: Request, response: Response) -> Any:
        reply = await site.read(request.headers)
        if not site.has_values:
            return as_response(reply)
        response.status_code = reply.status
        response.headers.update(reply.headers)
        return reply.content

    async def write() -> None:
        site.write()
        if invalidate is not None:
            await invalidate()

    methods = ["GET", "HEAD"]
    app.api_route("/page", methods=methods, dependencies=reading)(decorate(page))
    app.get("/plain")(page)
    app.put("/page")(site.write)
    app.post("/write", dependencies=writing)(write)
    return app


@asynccontextmanager
async def serve_ours(
    site: Site, url: str, *, tags: Sequence[str] = ("page",)
) -> AsyncGenerator[Service]:
    """async-redis-cache: the middleware and its decorator."""
    async with AsyncRedisCache.from_url(url) as cache:
        app = application(
            site,
            decorate=cache_response(ttl=site.ttl, tags=tags),
            invalidate=lambda: cache.invalidate_tags(None, "page"),
        )
        cached = ResponseCache(app, cache=cache)
        yield Service(cached)
        await cached.close()


@asynccontextmanager
async def serve_hishel(site: Site, url: str) -> AsyncGenerator[Service]:
    """hishel: its middleware, a shared cache of RFC 9111 by default. The handler says how long the page is fresh."""
    storage: Any = import_module("hishel").AsyncRedisStorage
    middleware: Any = import_module("hishel.asgi").ASGICacheMiddleware

    async def read(fields: Mapping[str, str]) -> Reply:
        reply = await site.read(fields)
        return replace(reply, headers={"cache-control": f"max-age={site.ttl}", **reply.headers})

    plain = application(site)
    app = application(replace(site, read=read))
    app.router.routes = [route for route in app.routes if getattr(route, "path", "") != "/plain"]
    app.router.routes += [route for route in plain.routes if getattr(route, "path", "") == "/plain"]
    async with redis.asyncio.from_url(url) as client:
        yield Service(middleware(app, storage=storage(client)), ("PUT", "/page"))


@asynccontextmanager
async def serve_fastapi_redis_sdk(site: Site, url: str) -> AsyncGenerator[Service]:
    """fastapi-redis-sdk: its dependencies."""
    sdk: Any = import_module("redis_fastapi")
    sdk.get_settings().url = url
    app = application(
        site,
        reading=[Depends(sdk.cache(ttl=site.ttl, eviction_group="page"))],
        writing=[Depends(sdk.cache_evict(eviction_group="page"))],
    )
    sdk.FastAPIRedis(app).lifespan().caching()
    async with app.router.lifespan_context(app):
        yield Service(app)


@asynccontextmanager
async def serve_fastapi_alcazaba(
    site: Site, url: str, *, is_tiered: bool = False
) -> AsyncGenerator[Service]:
    """fastapi-alcazaba: its decorator, with what it needs to run a handler once in all processes.

    Tiered, it keeps values in the process as well.
    """
    kind: Any = import_module("fastapi_alcazaba").Cache
    backend: Any = import_module("fastapi_alcazaba.backends.redis").RedisBackend
    tiered: Any = import_module("fastapi_alcazaba.backends.tiered").TieredBackend
    coders: Any = import_module("fastapi_alcazaba.coder")
    coder = coders.JsonCoder if site.has_values else coders.PickleCoder
    async with redis.asyncio.from_url(url) as client:
        cache = kind(
            tiered(backend(client)) if is_tiered else backend(client),
            prefix="site",
            signing_key=SECRET,
            distributed_lock=True,
        )
        yield Service(
            application(
                site,
                decorate=cache.cached(expire=site.ttl, coder=coder, tags=["page"]),
                invalidate=lambda: cache.invalidate_tags("page"),
            )
        )
        await cache.close()


@asynccontextmanager
async def serve_fastapi_cache2(site: Site, url: str) -> AsyncGenerator[Service]:
    """fastapi-cache2: its decorator."""
    cache: Any = import_module("fastapi_cache").FastAPICache
    backend: Any = import_module("fastapi_cache.backends.redis").RedisBackend
    decorator: Any = import_module("fastapi_cache.decorator")
    coders: Any = import_module("fastapi_cache.coder")
    coder = coders.JsonCoder if site.has_values else coders.PickleCoder
    async with redis.asyncio.from_url(url) as client:
        cache.reset()
        cache.init(backend(client), prefix="site")
        yield Service(
            application(
                site,
                decorate=decorator.cache(expire=site.ttl, coder=coder, namespace="page"),
                invalidate=lambda: cache.clear(namespace="page"),
            )
        )
        cache.reset()


@asynccontextmanager
async def serve_litestar(site: Site, url: str) -> AsyncGenerator[Service]:
    """Litestar: the cache of its route handlers, in its store for Redis."""
    litestar: Any = import_module("litestar")
    responses: Any = import_module("litestar.response")
    store: Any = import_module("litestar.stores.redis").RedisStore

    async def page(request: Any) -> Any:
        reply = await site.read(request.headers)
        if is_stream(reply):
            return responses.Stream(reply.content, media_type="text/event-stream")
        response = as_response(reply)
        return litestar.Response(
            response.body,
            status_code=reply.status,
            headers=dict(reply.headers),
            media_type=response.media_type,
        )

    async def plain(request: Any) -> Any:
        return await page(request)

    async def put() -> None:
        site.write()

    async def write(request: Any) -> None:
        site.write()
        await request.app.stores.get("response_cache").delete("GET/page")

    # Litestar reads the annotations, which cannot name what is imported here.
    page.__annotations__ = plain.__annotations__ = {"request": litestar.Request, "return": Any}
    write.__annotations__ = {"request": litestar.Request, "return": None}
    handlers = [
        litestar.route("/page", http_method=["GET", "HEAD"], cache=site.ttl)(page),
        litestar.get("/plain")(plain),
        litestar.put("/page")(put),
        litestar.post("/write")(write),
    ]
    async with AsyncExitStack() as stack:
        kept = store(await stack.enter_async_context(redis.asyncio.from_url(url)))
        app = litestar.Litestar(handlers, stores={"response_cache": kept})
        await stack.enter_async_context(app.lifespan())
        yield Service(app)


SERVICES: Mapping[str, Start] = {
    "async-redis-cache": serve_ours,
    "hishel": serve_hishel,
    "fastapi-redis-sdk": serve_fastapi_redis_sdk,
    "fastapi-alcazaba": serve_fastapi_alcazaba,
    "litestar": serve_litestar,
    "fastapi-cache2": serve_fastapi_cache2,
}
"""By the name of the package."""
