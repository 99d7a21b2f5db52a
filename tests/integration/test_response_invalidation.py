"""What invalidates stored responses, under the ASGI middleware and that of aiohttp, on a real server."""

from __future__ import annotations

import asyncio
import sys
from collections import Counter
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from functools import partial
from typing import Any, NamedTuple

import httpx
import pytest
from aiohttp import web
from aiohttp.test_utils import TestClient, TestServer
from fastapi import FastAPI, Request, Response

from async_redis_cache import AsyncRedisCache
from async_redis_cache import aiohttp as on_aiohttp
from async_redis_cache import asgi as on_asgi
from harness import Server, await_until


class Answer(NamedTuple):
    """A response."""

    status: int
    headers: dict[str, str]
    text: str

    @property
    def is_hit(self) -> bool:
        """Whether it came from the cache."""
        return "; hit" in self.headers["cache-status"]


Ask = Callable[..., Awaitable[Answer]]
"""Sends a request with a method, a path and header fields."""


class Shop:
    """The handlers of both applications, which tests hold back."""

    def __init__(self) -> None:
        self.stock = Counter[str]()
        self.runs = Counter[str]()
        self.headers: dict[str, str] = {}
        self.confirms = ""
        """The ETag of the 304 responses to requests with a condition; no text for none."""
        self.gate = asyncio.Event()
        self.gate.set()

    async def read(self, item: str) -> str:
        """Return the stock that is read at the beginning of the run."""
        self.runs[item] += 1
        stock = self.stock[item]
        await self.gate.wait()
        return f"{item} {stock}"

    def is_confirmed(self, headers: Mapping[str, str]) -> bool:
        """Return whether to answer a request with 304."""
        return bool(self.confirms) and "If-None-Match" in headers

    def ran(self, item: str, runs: int) -> bool:
        """Return whether the handler has run so often."""
        return self.runs[item] == runs

    def add(self, item: str) -> None:
        """Change the stock."""
        self.stock[item] += 1


@asynccontextmanager
async def on_fastapi(
    shop: Shop, cache: AsyncRedisCache, *, root_path: str = "", **options: Any
) -> AsyncGenerator[Ask]:
    """The shop as an application of FastAPI, whose server or proxy may take the root path off."""
    app = FastAPI()
    app.add_middleware(on_asgi.ResponseCache, cache=cache, **options)

    @app.get("/stock/{item}", name="product")
    @on_asgi.cache_response(ttl=60, tags=["route:product"])
    async def read(request: Request, item: str) -> Response:
        if shop.is_confirmed(request.headers):
            return Response(status_code=304, headers={**shop.headers, "ETag": shop.confirms})
        return Response(await shop.read(item), headers=shop.headers)

    @app.post("/stock")
    async def add(item: str) -> Response:
        shop.add(item)
        return Response(status_code=201, headers=shop.headers)

    @app.post("/sales/{item}")
    async def sell(request: Request, item: str) -> None:
        shop.add(item)
        await on_asgi.invalidate_url(cache, str(request.url_for("product", item=item)))

    transport = httpx.ASGITransport(app, root_path=root_path)
    async with cache, httpx.AsyncClient(transport=transport, base_url="http://shop") as client:

        async def ask(method: str, path: str, **headers: str) -> Answer:
            response = await client.request(method, path, headers=headers)
            return Answer(response.status_code, dict(response.headers), response.text)

        yield ask


@asynccontextmanager
async def on_aiohttp_server(
    shop: Shop, cache: AsyncRedisCache, **options: Any
) -> AsyncGenerator[Ask]:
    """The shop as an application of aiohttp."""

    @on_aiohttp.cache_response(ttl=60, tags=["route:product"])
    async def read(request: web.Request) -> web.StreamResponse:
        if shop.is_confirmed(request.headers):
            return web.Response(status=304, headers={**shop.headers, "ETag": shop.confirms})
        text = await shop.read(request.match_info["item"])
        return web.Response(text=text, headers=shop.headers)

    async def add(request: web.Request) -> web.StreamResponse:
        shop.add(request.query["item"])
        return web.Response(status=201, headers=shop.headers)

    async def sell(request: web.Request) -> web.StreamResponse:
        item = request.match_info["item"]
        shop.add(item)
        url = request.app.router["product"].url_for(item=item)
        await on_aiohttp.invalidate_url(cache, str(url))
        return web.Response()

    app = web.Application(middlewares=[on_aiohttp.response_cache(**options)])
    app.cleanup_ctx.append(on_aiohttp.cache_context(cache))
    app.router.add_get("/stock/{item}", read, name="product")
    app.router.add_post("/stock", add)
    app.router.add_post("/sales/{item}", sell)
    async with TestClient(TestServer(app)) as client:

        async def ask(method: str, path: str, **headers: str) -> Answer:
            lines = {"Host": "shop", **headers}
            async with client.request(method, path, headers=lines) as response:
                found = {name.lower(): value for name, value in response.headers.items()}
                return Answer(response.status, found, await response.text())

        yield ask


@pytest.fixture
async def shop() -> Shop:
    return Shop()


@pytest.fixture(params=[on_fastapi, on_aiohttp_server], ids=["asgi", "aiohttp"])
async def serving(
    request: pytest.FixtureRequest, shop: Shop, server: Server, key_prefix: str
) -> Callable[..., Any]:
    """Starts the shop with options of the middleware."""

    def serve(**options: Any) -> Any:
        cache = AsyncRedisCache.from_url(server.url, key_prefix=key_prefix)
        return request.param(shop, cache, **options)

    return serve


@pytest.fixture
async def ask(serving: Callable[..., Any]) -> AsyncIterator[Ask]:
    async with serving() as ask:
        yield ask


@pytest.mark.parametrize("name", ["Location", "Content-Location"])
@pytest.mark.parametrize("reference", ["/stock/tea", "stock/tea", "http://shop/stock/tea"])
async def test_write_invalidates_what_its_response_names(
    ask: Ask, shop: Shop, name: str, reference: str
) -> None:
    """A write whose response names a URI of the same origin invalidates it, and no other."""
    for item in ("tea", "cup"):
        await ask("GET", f"/stock/{item}")
    shop.headers = {name: reference}
    await ask("POST", "/stock?item=tea")
    shop.headers = {}
    assert (await ask("GET", "/stock/tea")).text == "tea 1"
    assert (await ask("GET", "/stock/cup")).is_hit


async def test_write_invalidates_no_other_origin(ask: Ask, shop: Shop) -> None:
    """A write whose response names another host or scheme does not invalidate responses of the same path."""
    await ask("GET", "/stock/tea")
    for reference in ("http://other/stock/tea", "https://shop/stock/tea"):
        shop.headers = {"Location": reference}
        await ask("POST", "/stock?item=tea")
    assert (await ask("GET", "/stock/tea")).is_hit


async def test_write_invalidates_a_run_that_it_names(ask: Ask, shop: Shop) -> None:
    """What a handler read before a write of another URI that names it is not stored."""
    shop.gate.clear()
    reading = asyncio.ensure_future(ask("GET", "/stock/tea"))
    await await_until(partial(shop.ran, "tea", 1))
    shop.headers = {"Location": "/stock/tea"}
    await ask("POST", "/stock?item=tea")
    shop.headers = {}
    shop.gate.set()
    assert (await reading).text == "tea 0"
    assert (await ask("GET", "/stock/tea")).text == "tea 1"


FORWARDED = {"X-Forwarded-Proto": "https", "X-Forwarded-Server": "edge"}


@pytest.mark.parametrize("headers", [{}, FORWARDED], ids=["", "behind a proxy"])
async def test_handler_invalidates_a_url(ask: Ask, shop: Shop, headers: dict[str, str]) -> None:
    """A handler invalidates the URL of another route, with its variants, as its clients send it."""
    shop.headers = {"Vary": "X-Tenant"}
    variants = [{**headers, "X-Tenant": tenant} for tenant in ("a", "b")]
    for variant in variants:
        await ask("GET", "/stock/tea", **variant)
        assert (await ask("GET", "/stock/tea", **variant)).is_hit
    await ask("POST", "/sales/tea", **headers)
    for variant in variants:
        assert (await ask("GET", "/stock/tea", **variant)).text == "tea 1"


@pytest.mark.depends_on
async def test_handler_invalidates_a_url_with_its_root_path(
    any_server: Server, shop: Shop, key_prefix: str
) -> None:
    """A URL that Starlette makes begins with the root path, which the requests of a proxy do not have."""
    cache = AsyncRedisCache.from_url(any_server.url, key_prefix=key_prefix)
    async with on_fastapi(shop, cache, root_path="/api") as ask:
        await ask("GET", "/stock/tea")
        await ask("POST", "/sales/tea")
        assert (await ask("GET", "/stock/tea")).text == "tea 1"
        shop.headers = {"Location": "/api/stock/tea"}
        await ask("POST", "/stock?item=tea")
        assert (await ask("GET", "/stock/tea")).text == "tea 2"


JOB = """
import asyncio
import sys
from async_redis_cache import AsyncRedisCache
from async_redis_cache.asgi import invalidate_url

async def job(server, key_prefix, url):
    async with AsyncRedisCache.from_url(server, key_prefix=key_prefix) as cache:
        await invalidate_url(cache, url)

asyncio.run(job(*sys.argv[1:]))
"""


async def test_job_in_another_process_invalidates_a_url(
    ask: Ask, shop: Shop, server: Server, key_prefix: str
) -> None:
    """A job that has the cache only invalidates a stored response, and one whose handler is running."""
    await ask("GET", "/stock/cup")
    shop.gate.clear()
    reading = asyncio.ensure_future(ask("GET", "/stock/tea"))
    await await_until(partial(shop.ran, "tea", 1))
    for item in ("tea", "cup"):
        shop.add(item)
        url = f"http://shop/stock/{item}"
        job = await asyncio.create_subprocess_exec(
            *(sys.executable, "-c", JOB, server.url, key_prefix, url)
        )
        assert await job.wait() == 0
    shop.gate.set()
    assert (await reading).text == "tea 0"
    for item in ("tea", "cup"):
        assert (await ask("GET", f"/stock/{item}")).text == f"{item} 1"


async def test_tag_of_a_route_invalidates_its_responses(
    ask: Ask, shop: Shop, server: Server, key_prefix: str
) -> None:
    """A tag that a route has in its options invalidates all of its responses, also those of running handlers."""
    await ask("GET", "/stock/cup")
    shop.gate.clear()
    reading = asyncio.ensure_future(ask("GET", "/stock/tea"))
    await await_until(partial(shop.ran, "tea", 1))
    for item in ("tea", "cup"):
        shop.add(item)
    async with AsyncRedisCache.from_url(server.url, key_prefix=key_prefix) as job:
        await job.invalidate_tags(None, "route:product")
    shop.gate.set()
    assert (await reading).text == "tea 0"
    for item in ("tea", "cup"):
        assert (await ask("GET", f"/stock/{item}")).text == f"{item} 1"


async def test_tags_in_a_header_are_taken_off(
    serving: Callable[..., Any], shop: Shop, server: Server, key_prefix: str
) -> None:
    """The tags of the header invalidate the response, and neither it nor a hit nor a write has the header."""
    async with (
        serving(tags_header="Cache-Tags") as ask,
        AsyncRedisCache.from_url(server.url, key_prefix=key_prefix) as other,
    ):
        shop.headers = {"cache-tags": "item:tea, caf\u00e9,,", "X-Shelf": "3"}
        for tag in ("item:tea", "caf\u00e9"):
            answers = [await ask("GET", "/stock/tea") for _ in range(2)]
            for answer in answers:
                assert (answer.headers["x-shelf"], answer.headers.get("cache-tags")) == ("3", None)
            assert answers[1].is_hit
            shop.add("tea")
            await other.invalidate_tags(None, tag)
            assert (await ask("GET", "/stock/tea")).text == f"tea {shop.stock['tea']}"
        assert "cache-tags" not in (await ask("POST", "/stock?item=tea")).headers


async def test_tags_in_a_header_of_a_request_are_ignored(
    serving: Callable[..., Any], shop: Shop, server: Server, key_prefix: str
) -> None:
    """A client cannot add tags to the response that other clients get."""
    async with (
        serving(tags_header="Cache-Tags") as ask,
        AsyncRedisCache.from_url(server.url, key_prefix=key_prefix) as other,
    ):
        await ask("GET", "/stock/tea", **{"Cache-Tags": "item:tea"})
        await other.invalidate_tags(None, "item:tea")
        assert (await ask("GET", "/stock/tea")).is_hit


async def test_tag_in_a_header_invalidates_a_run(
    serving: Callable[..., Any], shop: Shop, server: Server, key_prefix: str
) -> None:
    """A tag of the header that is invalidated while the handler runs applies: the response is not stored."""
    async with (
        serving(tags_header="Cache-Tags") as ask,
        AsyncRedisCache.from_url(server.url, key_prefix=key_prefix) as other,
    ):
        shop.headers = {"Cache-Tags": "item:tea"}
        shop.gate.clear()
        reading = asyncio.ensure_future(ask("GET", "/stock/tea"))
        await await_until(partial(shop.ran, "tea", 1))
        shop.add("tea")
        await other.invalidate_tags(None, "item:tea")
        shop.gate.set()
        assert (await reading).text == "tea 0"
        assert (await ask("GET", "/stock/tea")).text == "tea 1"


@pytest.mark.parametrize("tags", ["x" * 513, ",".join(map(str, range(200))), "a\tb"])
async def test_response_with_an_invalid_tag_is_passed_on(
    serving: Callable[..., Any], shop: Shop, caplog: pytest.LogCaptureFixture, tags: str
) -> None:
    """A response that could not be invalidated by its tags is not stored, which is logged once, and not failed."""
    async with serving(tags_header="Cache-Tags") as ask:
        shop.headers = {"Cache-Tags": tags}
        for run in (1, 2):
            answer = await ask("GET", "/stock/tea")
            assert (answer.status, answer.text) == (200, "tea 0")
            assert "cache-tags" not in answer.headers
            assert "stored" not in answer.headers["cache-status"]
            assert shop.runs["tea"] == run
    warned = [record for record in caplog.records if "Cache-Tags" in record.getMessage()]
    assert len(warned) == 1


async def test_tags_are_kept_when_a_response_is_validated(
    serving: Callable[..., Any], shop: Shop, server: Server, key_prefix: str
) -> None:
    """The tags of a response invalidate it although the 304 response that has validated it meanwhile has none."""
    async with (
        serving(tags_header="Cache-Tags") as ask,
        AsyncRedisCache.from_url(server.url, key_prefix=key_prefix) as other,
    ):
        shop.headers = {"ETag": '"1"', "Cache-Control": "max-age=60", "Age": "60"}
        shop.headers["Cache-Tags"] = "item:tea"
        await ask("GET", "/stock/tea")
        del shop.headers["Cache-Tags"]
        shop.confirms = '"1"'
        for _ in range(2):
            assert "fwd-status=304" in (await ask("GET", "/stock/tea")).headers["cache-status"]
        shop.add("tea")
        await other.invalidate_tags(None, "item:tea")
        assert (await ask("GET", "/stock/tea")).text == "tea 1"


async def test_tags_are_taken_off_a_second_run(serving: Callable[..., Any], shop: Shop) -> None:
    """A response that is asked for again, since the handler confirmed another one, does not have the header either."""
    async with serving(tags_header="Cache-Tags") as ask:
        shop.headers = {"ETag": '"1"', "Cache-Control": "max-age=60", "Age": "60"}
        shop.headers["Cache-Tags"] = "item:tea"
        await ask("GET", "/stock/tea")
        shop.confirms = '"2"'
        answer = await ask("GET", "/stock/tea")
        assert (answer.text, answer.headers.get("cache-tags")) == ("tea 0", None)
        assert shop.runs["tea"] == 2


@pytest.mark.parametrize("name", ["", "Cache Tags", "Cache-Tags:", "caf\u00e9", "a\r\nb"])
def test_name_of_the_header_is_checked(name: str) -> None:
    """A name that no field can have is refused when the middleware is made."""
    with pytest.raises(ValueError, match="tags_header"):
        on_aiohttp.response_cache(tags_header=name)
