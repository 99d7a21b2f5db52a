"""Requests that refuse a stored response, such as forced reloads in a browser, with `follows_requests`."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import pytest
from aiohttp import web
from aiohttp.test_utils import TestClient, TestServer

from async_redis_cache import AsyncRedisCache
from async_redis_cache import aiohttp as on_aiohttp
from async_redis_cache.asgi import ResponseCache, ResponseOptions, invalidate_url
from harness.responses import Answer, ask

if TYPE_CHECKING:
    from harness import Server

pytestmark = pytest.mark.depends_on()

URL = "http://shop/page"
RULES: dict[str, ResponseOptions] = {"*": {"ttl": 60, "follows_requests": True}}


class Pages:
    """An application whose pages have the number of the run as their body.

    Attributes:
        runs: how often it has run.
        status: of its responses.
        fields: of its responses, in addition to the tenant in `Vary`.
        asked: `If-None-Match` of the last request.
        meanwhile: called during a run.
    """

    def __init__(self) -> None:
        self.runs = 0
        self.status = 200
        self.fields: list[tuple[bytes, bytes]] = []
        self.asked: bytes | None = None
        self.meanwhile: Any = None

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Send the response."""
        self.runs += 1
        body = str(self.runs).encode()
        self.asked = dict(scope["headers"]).get(b"if-none-match")
        if self.meanwhile is not None:
            await self.meanwhile()
        headers = [(b"vary", b"X-Tenant"), *self.fields]
        await send({"type": "http.response.start", "status": self.status, "headers": headers})
        await send({"type": "http.response.body", "body": body})


async def read(app: Any, directives: str = "", tenant: str = "a") -> Answer:
    """Request the page, with directives of `Cache-Control`."""
    fields = [("host", "shop"), ("x-tenant", tenant)]
    return await ask(app, "/page", [*fields, *([("cache-control", directives)] * bool(directives))])


def status_of(answer: Answer) -> str:
    return answer.headers["cache-status"].removeprefix("async-redis-cache; ")


@pytest.mark.parametrize("directives", ["no-cache", "max-age=0", "min-fresh=90"])
async def test_reload_replaces_the_stored_response(
    any_server: Server, key_prefix: str, directives: str
) -> None:
    """RFC 9111, section 5.2.1: a request refuses what is stored; the response to it is stored for all, in its variant."""
    pages = Pages()
    async with AsyncRedisCache.from_url(any_server.url, key_prefix=key_prefix) as cache:
        cached = ResponseCache(pages, cache=cache, rules=RULES)
        await read(cached)
        await read(cached, tenant="b")
        reloaded = await read(cached, directives)
        answers = [await read(cached, tenant=tenant) for tenant in "ab"]
        await cached.close()
    assert (reloaded.body, status_of(reloaded)) == (b"3", "fwd=request; stored")
    assert [answer.body for answer in answers] == [b"3", b"2"]
    assert pages.runs == 3


async def test_reload_replaces_the_stored_response_of_aiohttp(
    any_server: Server, key_prefix: str
) -> None:
    """The middleware of aiohttp stores the response to a reload too."""
    runs: list[str] = []

    async def page(request: web.Request) -> web.StreamResponse:
        runs.append(request.path)
        return web.Response(text=str(len(runs)))

    cache = AsyncRedisCache.from_url(any_server.url, key_prefix=key_prefix)
    app = web.Application(middlewares=[on_aiohttp.response_cache(rules=RULES)])
    app.cleanup_ctx.append(on_aiohttp.cache_context(cache))
    app.router.add_get("/page", page)
    async with TestClient(TestServer(app)) as client:
        bodies: list[str] = []
        for directives in ("", "no-cache", ""):
            async with client.get("/page", headers={"Cache-Control": directives}) as answer:
                bodies.append(await answer.text())
    assert bodies == ["1", "2", "2"]


@pytest.mark.parametrize(
    ("directives", "status", "fields"),
    [
        ("no-cache, no-store", 200, []),
        ("no-cache", 200, [(b"set-cookie", b"session=secret")]),
        ("no-cache", 200, [(b"cache-control", b"private")]),
        ("no-cache", 503, []),
    ],
    ids=["no-store of the request", "cookie", "private", "error"],
)
async def test_reload_whose_response_cannot_be_stored_changes_nothing(
    any_server: Server,
    key_prefix: str,
    directives: str,
    status: int,
    fields: list[tuple[bytes, bytes]],
) -> None:
    """Others get the response that was stored before; a client cannot remove it by requests."""
    pages = Pages()
    async with AsyncRedisCache.from_url(any_server.url, key_prefix=key_prefix) as cache:
        cached = ResponseCache(pages, cache=cache, rules=RULES)
        await read(cached)
        pages.status, pages.fields = status, fields
        reloaded = await read(cached, directives)
        answer = await read(cached)
        await cached.close()
    assert (reloaded.status, reloaded.body) == (status, b"2")
    assert status_of(reloaded) == "fwd=request"
    assert answer.body == b"1"
    assert pages.runs == 2


@pytest.mark.parametrize(
    ("control", "runs"), [(b"max-age=60", 2), (b"private", 3)], ids=["fresh", "private"]
)
async def test_reload_validates_the_stored_response(
    any_server: Server, key_prefix: str, control: bytes, runs: int
) -> None:
    """RFC 9111, section 5.2.1.4: a handler may confirm with 304, whose fields apply to what is stored."""
    pages = Pages()
    pages.fields = [(b"etag", b'"1"')]
    async with AsyncRedisCache.from_url(any_server.url, key_prefix=key_prefix) as cache:
        cached = ResponseCache(pages, cache=cache, rules=RULES)
        await read(cached)
        pages.status, pages.fields = 304, [(b"etag", b'"1"'), (b"cache-control", control)]
        reloaded = await read(cached, "no-cache")
        assert pages.asked == b'"1"'
        pages.status, pages.fields = 200, []
        answer = await read(cached)
        await cached.close()
    assert (reloaded.status, reloaded.body) == (200, b"1")
    assert status_of(reloaded).startswith("fwd=request; fwd-status=304; ")
    assert answer.headers["vary"] == "X-Tenant"
    assert pages.runs == runs


async def test_reload_within_stale_while_revalidate_is_stored(
    any_server: Server, key_prefix: str
) -> None:
    """A response that others get while it is revalidated is replaced by a reload, too."""
    pages = Pages()
    pages.fields = [(b"cache-control", b"max-age=60, stale-while-revalidate=60"), (b"age", b"90")]
    async with AsyncRedisCache.from_url(any_server.url, key_prefix=key_prefix) as cache:
        cached = ResponseCache(pages, cache=cache, rules=RULES)
        await read(cached)
        pages.fields = []
        reloaded = await read(cached, "no-cache")
        answer = await read(cached)
        await cached.close()
    assert (reloaded.body, status_of(reloaded)) == (b"2", "fwd=stale; stored")
    assert answer.body == b"2"


@pytest.mark.parametrize("end", ["invalidated", "flushed", "cancelled"])
async def test_reload_that_ends_early_stores_nothing(
    any_server: Server, key_prefix: str, end: str
) -> None:
    """What was invalidated during a reload is not stored, and a reload that is cancelled leaves what was."""
    pages = Pages()
    async with AsyncRedisCache.from_url(any_server.url, key_prefix=key_prefix) as cache:
        cached = ResponseCache(pages, cache=cache, rules=RULES)
        await read(cached)
        reloading = asyncio.ensure_future(read(cached, "no-cache"))

        async def meanwhile() -> None:
            pages.meanwhile = None
            if end == "cancelled":
                reloading.cancel()
                await asyncio.Event().wait()
            elif end == "invalidated":
                await invalidate_url(cache, URL)
            else:
                await cache.clear(None)

        pages.meanwhile = meanwhile
        with suppress(asyncio.CancelledError):
            assert (await reloading).body == b"2"
        answer = await read(cached)
        await cached.close()
    assert reloading.cancelled() == (end == "cancelled")
    assert answer.body == (b"1" if end == "cancelled" else b"3")


@pytest.mark.parametrize("stale_if_error", [0, 60])
async def test_error_of_a_reload_is_replaced_only_on_demand(
    any_server: Server, key_prefix: str, stale_if_error: int
) -> None:
    """The stored response is sent instead of the error of a reload within `stale_if_error`, and not without."""
    pages = Pages()
    rules: dict[str, ResponseOptions] = {"*": {**RULES["*"], "stale_if_error": stale_if_error}}
    async with AsyncRedisCache.from_url(any_server.url, key_prefix=key_prefix) as cache:
        cached = ResponseCache(pages, cache=cache, rules=rules)
        await read(cached)
        pages.status = 503
        reloaded = await read(cached, "no-cache")
        await cached.close()
    assert (reloaded.status, reloaded.body) == ((200, b"1") if stale_if_error else (503, b"2"))
