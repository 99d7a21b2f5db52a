"""What OpenTelemetry says of HTTP responses: the route and how the cache handled the request, and no URI."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import httpx
import pytest
from aiohttp import web
from aiohttp.test_utils import TestClient, TestServer
from fastapi import FastAPI
from opentelemetry.trace import SpanKind
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Mount, Route

from async_redis_cache import AsyncRedisCache
from async_redis_cache import aiohttp as on_aiohttp
from async_redis_cache.asgi import ResponseCache, cache_response
from harness import Server, await_until
from harness.responses import ask
from harness.telemetry import said_of

if TYPE_CHECKING:
    from harness.telemetry import Telemetry

pytest_plugins = ["otel_fixtures"]
OURS = "async_redis_cache."


def counted(telemetry: Telemetry) -> dict[tuple[Any, ...], int]:
    """Responses by namespace, route, outcome and whether they were stored."""
    names = ("namespace", "route", "response", "stored")
    return {
        tuple(point.attributes[f"{OURS}{name}"] for name in names): point.value
        for point in telemetry.metrics().get(f"{OURS}responses", [])
    }


@pytest.fixture
def traced(telemetry: Telemetry) -> Callable[[Any], Any]:
    """A middleware that creates a span for each request, as those of OpenTelemetry do."""

    def wrap(app: Any) -> Any:
        tracer = telemetry.tracers.get_tracer("server")

        async def serve(scope: Any, receive: Any, send: Any) -> None:
            with tracer.start_as_current_span("request", kind=SpanKind.SERVER) as span:

                async def ending(message: Any) -> None:
                    if message["type"] == "http.response.body":
                        span.end()
                    await send(message)

                await app(scope, receive, ending)

        return serve

    return wrap


async def test_responses_are_counted_by_route_and_outcome(
    server: Server, key_prefix: str, telemetry: Telemetry, traced: Callable[[Any], Any]
) -> None:
    """A counter and the span of the request have the template of the route, but not the path."""
    app = FastAPI()

    @app.get("/stock/{item}")
    @cache_response(ttl=60)
    async def read(item: str) -> str:
        return item

    @app.get("/page/{number}")
    async def page(number: int) -> int:
        return number

    async with AsyncRedisCache.from_url(server.url, key_prefix=key_prefix) as cache:
        stop = telemetry.of(cache)
        cached = ResponseCache(app, cache=cache, rules={"/page/*": {"ttl": 60}})
        transport = httpx.ASGITransport(traced(cached))
        async with httpx.AsyncClient(transport=transport, base_url="http://shop") as client:
            for path in ("/stock/tea", "/stock/tea", "/stock/cup", "/page/1", "/page/1"):
                await client.get(path)
            stop()
            await client.get("/stock/tea")
    template, pattern = "/stock/{item}", "/page/*"
    assert counted(telemetry) == {
        ("responses", template, "uri-miss", True): 2,
        ("responses", template, "hit", False): 1,
        ("responses", pattern, "uri-miss", True): 1,
        ("responses", pattern, "hit", False): 1,
    }
    requests = [said_of(span) for span in telemetry.spans() if span.kind is SpanKind.SERVER]
    assert [
        (said.get(f"{OURS}route"), said.get(f"{OURS}response"), said.get(f"{OURS}stored"))
        for said in requests
    ] == [
        (template, "uri-miss", True),
        (template, "hit", False),
        (template, "uri-miss", True),
        (pattern, "uri-miss", True),
        (pattern, "hit", False),
        (None, None, None),
    ]


async def test_route_of_a_mounted_application_has_its_mount(
    server: Server, key_prefix: str, telemetry: Telemetry
) -> None:
    """The template begins with that of the mount, without what a request has put into it, or without a mount."""

    @cache_response(ttl=60)
    async def page(_: Request) -> Response:
        return Response("text")

    inner = [Route("/page/{number}", page)]
    app = Starlette(
        routes=[
            Mount("/plain", routes=[Mount("/deep", routes=inner)]),
            Mount("/of/{tenant}", routes=inner),
            Mount("/in/{floor:int}", routes=inner),
        ]
    )
    async with AsyncRedisCache.from_url(server.url, key_prefix=key_prefix) as cache:
        telemetry.of(cache)
        cached = ResponseCache(app, cache=cache)
        for path in (
            "/plain/deep/page/1",
            "/of/1/page/1",
            "/of/2/page/1",
            "/in/7/page/7",
            "/in/007/page/1",
        ):
            assert (await ask(cached, path)).body == b"text"
    assert {route for _, route, _, _ in counted(telemetry)} == {
        "/plain/deep/page/{number}",
        "/of/{tenant}/page/{number}",
        "/in/{floor}/page/{number}",
        "/page/{number}",
    }


async def test_responses_of_aiohttp_are_counted(
    server: Server, key_prefix: str, telemetry: Telemetry
) -> None:
    """Routes are the templates of the resources of aiohttp."""

    @on_aiohttp.cache_response(ttl=60)
    async def read(request: web.Request) -> web.StreamResponse:
        return web.Response(text=request.match_info["item"])

    cache = AsyncRedisCache.from_url(server.url, key_prefix=key_prefix)
    telemetry.of(cache)
    app = web.Application(middlewares=[on_aiohttp.response_cache()])
    app.cleanup_ctx.append(on_aiohttp.cache_context(cache))
    app.router.add_get("/stock/{item}", read)
    async with TestClient(TestServer(app)) as client:
        for _ in range(3):
            await (await client.get("/stock/tea")).read()
        assert counted(telemetry) == {
            ("responses", "/stock/{item}", "uri-miss", True): 1,
            ("responses", "/stock/{item}", "hit", False): 2,
        }


async def test_request_for_a_stored_response_only_is_counted(
    server: Server, key_prefix: str, telemetry: Telemetry
) -> None:
    """The 504 of a route without a stored response is counted; it has no `Cache-Status` (RFC 9211, section 2)."""

    @on_aiohttp.cache_response(ttl=60, follows_requests=True)
    async def read(_: web.Request) -> web.StreamResponse:
        return web.Response()

    cache = AsyncRedisCache.from_url(server.url, key_prefix=key_prefix)
    telemetry.of(cache)
    app = web.Application(middlewares=[on_aiohttp.response_cache()])
    app.cleanup_ctx.append(on_aiohttp.cache_context(cache))
    app.router.add_get("/stock", read)
    async with TestClient(TestServer(app)) as client:
        answer = await client.get("/stock", headers={"Cache-Control": "only-if-cached"})
        assert (answer.status, await answer.read()) == (504, b"")
        assert "Cache-Status" not in answer.headers
        assert counted(telemetry) == {("responses", "/stock", "only-if-cached", False): 1}


async def test_background_runs_are_not_counted(
    server: Server, key_prefix: str, telemetry: Telemetry
) -> None:
    """A stale response that is served is one response, although the handler runs for it."""
    runs = 0

    async def app(scope: Any, receive: Any, send: Any) -> None:
        nonlocal runs
        runs += 1
        fresh = b"max-age=0, stale-while-revalidate=60" if runs == 1 else b"max-age=60"
        headers = [(b"cache-control", fresh)]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": b"%d" % runs})

    async with AsyncRedisCache.from_url(server.url, key_prefix=key_prefix) as cache:
        telemetry.of(cache)
        cached = ResponseCache(app, cache=cache, rules={"*": {}})
        transport = httpx.ASGITransport(cached)
        async with httpx.AsyncClient(transport=transport, base_url="http://shop") as client:
            bodies = [(await client.get("/")).text for _ in range(2)]
            await await_until(lambda: runs == 2)
        await cached.close()
    assert bodies == ["1", "1"]
    assert counted(telemetry) == {
        ("responses", "*", "uri-miss", True): 1,
        ("responses", "*", "hit", False): 1,
    }


async def test_namespace_counts_hits_and_runs(server: Server, key_prefix: str) -> None:
    """The statistics of the namespace are those of its responses, also without OpenTelemetry."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"x"})

    async with AsyncRedisCache.from_url(server.url, key_prefix=key_prefix) as cache:
        cached = ResponseCache(app, cache=cache, rules={"*": {"ttl": 60}})
        transport = httpx.ASGITransport(cached)
        async with httpx.AsyncClient(transport=transport, base_url="http://shop") as client:
            for _ in range(5):
                await client.get("/")
        stats = cache.namespace("responses").stats()
    assert (stats.hits, stats.loads) == (4, 1)
