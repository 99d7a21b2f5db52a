"""`response_cache` in front of aiohttp handlers, on a real server."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from typing import Any

import pytest
from aiohttp import web
from aiohttp.test_utils import TestClient, TestServer

from async_redis_cache import AsyncRedisCache
from async_redis_cache.aiohttp import (
    CACHE,
    add_response_tags,
    cache_context,
    cache_response,
    response_cache,
)
from harness import Server, await_until

Client = TestClient[web.Request, web.Application]


class Shop:
    """An application that counts the runs of its handlers, and that tests hold back."""

    def __init__(self) -> None:
        self.runs: Counter[str] = Counter()
        self.stock = 1
        self.gate = asyncio.Event()
        self.gate.set()
        self.headers: dict[str, str] = {}
        self.cookie = ""
        self.fails = False

    def app(self, cache: AsyncRedisCache) -> web.Application:
        """The application."""
        rules: Any = {"/gone/*": {"missing_ttl": 60}, "/list/*": {"ttl": 60}}
        app = web.Application(middlewares=[response_cache(rules=rules, name="shop")])
        app.cleanup_ctx.append(cache_context(cache))
        app.router.add_get("/stock/{item}", cache_response(ttl=60)(self.read))
        app.router.add_put("/stock/{item}", self.write)
        app.router.add_get("/gone/{item}", self.refuse)
        app.router.add_get("/account/{item}", self.account)
        app.router.add_view("/view/{item}", StockView)
        app.router.add_get("/host", cache_response(ttl=60)(self.host))
        app.router.add_get("/list/{item}", self.stream)
        app.router.add_put("/list/{item}", self.stream)
        app.router.add_get("/list/{item}/socket", self.socket)
        app.router.add_get("/list/{item}/parts", self.parts)
        return app

    async def read(self, request: web.Request) -> web.StreamResponse:
        """Return the stock, after the gate is open; 304 for the validator that it sends."""
        item = request.match_info["item"]
        self.runs[item] += 1
        if self.fails:
            raise RuntimeError
        add_response_tags(f"item:{item}")
        stock = self.stock
        await self.gate.wait()
        if request.headers.get("If-None-Match") == '"1"':
            response = web.Response(status=304, headers=self.headers)
        else:
            response = web.Response(text=f"{item} {stock}", headers=self.headers)
        if self.cookie:
            response.set_cookie("session", self.cookie)
        return response

    async def account(self, request: web.Request) -> web.StreamResponse:
        """Call a handler that is opted in."""
        return await cache_response(ttl=60)(self.read)(request)

    async def write(self, request: web.Request) -> web.StreamResponse:
        """Set the stock."""
        self.stock = int(await request.text())
        return web.Response(headers=self.headers)

    async def refuse(self, request: web.Request) -> web.StreamResponse:
        """Raise 404."""
        self.runs["gone"] += 1
        raise web.HTTPNotFound

    async def stream(self, request: web.Request) -> web.StreamResponse:
        """Send a body in parts, the last after the gate is open. With a stock of 0, return one part."""
        self.runs["list"] += 1
        if not self.stock:
            return web.Response(text="1", headers=self.headers)
        response = web.StreamResponse()
        await response.prepare(request)
        await response.write(b"1,")
        await self.gate.wait()
        await response.write_eof(b"2")
        return response

    async def host(self, request: web.Request) -> web.StreamResponse:
        """Return a link."""
        return web.Response(text=str(request.url))

    async def socket(self, request: web.Request) -> web.StreamResponse:
        """Send a message over a websocket, and wait for one."""
        response = web.WebSocketResponse()
        await response.prepare(request)
        await response.send_str("1")
        await response.receive()
        return response

    async def parts(self, _: web.Request) -> web.StreamResponse:
        """Return a body that is generated while it is sent."""

        async def generate() -> AsyncIterator[bytes]:
            yield b"1,"
            yield b"2"

        return web.Response(body=generate())


class StockView(web.View):
    """A class-based view."""

    etag = '"1"'

    @cache_response(ttl=60)
    async def get(self) -> web.StreamResponse:
        """Return the time at which it ran; 304 to a client that has the present version."""
        if self.request.headers.get("If-None-Match") == self.etag:
            return web.Response(status=304)
        headers = {
            "ETag": self.etag,
            "Cache-Control": self.request.query.get("control", "max-age=60"),
        }
        return web.Response(text=str(asyncio.get_running_loop().time()), headers=headers)


@pytest.fixture
async def shop() -> Shop:
    return Shop()


@pytest.fixture
async def client(shop: Shop, server: Server, key_prefix: str) -> AsyncIterator[Client]:
    cache = AsyncRedisCache.from_url(server.url, key_prefix=key_prefix)
    async with TestClient(TestServer(shop.app(cache))) as client:
        yield client


async def read(client: Client, path: str, **headers: str) -> tuple[int, str, str]:
    """The status, the text and the `Cache-Status` of a response."""
    async with client.get(path, headers=headers) as response:
        status = response.headers.get("Cache-Status", "")
        return response.status, await response.text(), status.removeprefix("shop; ")


async def test_stored_response_is_served_until_a_write(client: Client, shop: Shop) -> None:
    """A hit has what the first response had; a write to the URI, and a tag, invalidate it."""
    assert await read(client, "/stock/tea") == (200, "tea 1", "fwd=uri-miss; stored")
    assert (await read(client, "/stock/tea"))[2].startswith("hit; ttl=")
    await client.put("/stock/tea", data="2")
    assert (await read(client, "/stock/tea"))[1] == "tea 2"
    shop.stock = 3
    await client.server.app[CACHE].invalidate_tags(None, "item:tea")  # type: ignore[attr-defined]
    assert (await read(client, "/stock/tea"))[1] == "tea 3"


async def test_concurrent_requests_share_one_run(client: Client, shop: Shop) -> None:
    """50 requests for a response that is not stored run the handler once."""
    shop.gate.clear()
    requests = [asyncio.ensure_future(read(client, "/stock/tea")) for _ in range(50)]
    await await_until(lambda: shop.runs["tea"] == 1)
    shop.gate.set()
    assert {text for _, text, _ in await asyncio.gather(*requests)} == {"tea 1"}
    assert shop.runs["tea"] == 1


async def test_response_with_a_cookie_is_not_shared(client: Client, shop: Shop) -> None:
    """A cookie, which aiohttp keeps apart from the headers, makes a response that of one client."""
    shop.cookie = "1"
    for run in (1, 2):
        assert (await read(client, "/stock/tea"))[1] == "tea 1"
        assert shop.runs["tea"] == run


async def test_raised_response_is_remembered_by_its_own_ttl(client: Client, shop: Shop) -> None:
    """A 404 that a handler raises is stored for `missing_ttl`."""
    for _ in range(2):
        assert (await read(client, "/gone/1"))[0] == 404
    assert shop.runs["gone"] == 1


async def test_stream_is_passed_on(client: Client, shop: Shop) -> None:
    """A response that the handler has sent itself is not stored."""
    for run in (1, 2):
        assert (await read(client, "/list/1"))[:2] == (200, "1,2")
        assert shop.runs["list"] == run


async def test_head_and_conditions_are_answered_from_the_cache(client: Client, shop: Shop) -> None:
    """HEAD has the length of the body, and If-None-Match with the ETag gets 304."""
    async with client.get("/stock/tea") as first:
        etag = first.headers["ETag"]
    async with client.head("/stock/tea") as head:
        assert (head.status, head.headers["Content-Length"]) == (200, "5")
    status, text, _ = await read(client, "/stock/tea", **{"If-None-Match": etag})
    assert (status, text, shop.runs["tea"]) == (304, "", 1)


async def test_stale_response_is_validated_by_the_handler(client: Client, shop: Shop) -> None:
    """Its validator is passed to the handler, whose 304 makes it the response again, with a cookie for the client."""
    shop.headers = {"ETag": '"1"', "Cache-Control": "max-age=60", "Age": "60"}
    for cookie in ("", "a", ""):
        shop.cookie = cookie
        async with client.get("/stock/tea") as response:
            assert (response.status, await response.text()) == (200, "tea 1")
            assert [morsel.value for morsel in response.cookies.values()] == [cookie] * bool(cookie)
    assert shop.runs["tea"] == 3


async def test_stale_response_is_served_while_the_handler_runs(client: Client, shop: Shop) -> None:
    """stale-while-revalidate: a request of the cache itself runs the handler, and no client waits."""
    shop.headers = {"Cache-Control": "max-age=60, stale-while-revalidate=60", "Age": "60"}
    await read(client, "/stock/tea")
    shop.stock = 2
    shop.gate.clear()
    assert (await read(client, "/stock/tea"))[1] == "tea 1"
    await await_until(lambda: shop.runs["tea"] == 2)
    shop.gate.set()
    # The time limit of the test ends this.
    while (await read(client, "/stock/tea"))[1] != "tea 2":
        pass


async def test_stale_response_replaces_an_exception(client: Client, shop: Shop) -> None:
    """stale-if-error: a handler that raises is logged, and the stale response is served."""
    shop.headers = {"Cache-Control": "max-age=60, stale-if-error=60", "Age": "60"}
    await read(client, "/stock/tea")
    shop.fails = True
    assert (await read(client, "/stock/tea"))[:2] == (200, "tea 1")


async def test_handler_that_another_one_calls_is_not_opted_in(client: Client, shop: Shop) -> None:
    """The response is that of the handler that was routed to, which may be for one client."""
    for run in (1, 2):
        assert await read(client, "/account/tea") == (200, "tea 1", "")
        assert shop.runs["tea"] == run


async def test_method_of_a_view_is_opted_in(client: Client) -> None:
    """The decorator works for the methods of class-based views."""
    one, other = [(await read(client, "/view/tea"))[1] for _ in range(2)]
    assert one == other


async def test_view_that_answers_the_client_validates_nothing(
    client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A view has the condition of the client, so its 304 is not about the stale response, which is another version."""
    _, first, _ = await read(client, "/view/tea?control=no-cache")
    monkeypatch.setattr(StockView, "etag", '"2"')
    status, _, _ = await read(client, "/view/tea?control=no-cache", **{"If-None-Match": '"2"'})
    assert status == 304
    status, text, _ = await read(client, "/view/tea?control=no-cache")
    assert (status, text != first) == (200, True)


async def test_clients_do_not_wait_for_a_stream_that_the_handler_sends(
    client: Client, shop: Shop
) -> None:
    """Every client gets the first part of a stream, and the first message of a websocket, while others have it open."""
    shop.gate.clear()
    async with AsyncExitStack() as stack:
        for _ in range(2):
            response = await stack.enter_async_context(client.get("/list/tea"))
            assert await response.content.readexactly(2) == b"1,"
            assert response.headers["Cache-Status"].startswith("shop; fwd=")
            socket = await stack.enter_async_context(client.ws_connect("/list/tea/socket"))
            assert await socket.receive_str() == "1"
        shop.gate.set()


async def test_write_whose_handler_sends_the_response_invalidates_before(
    client: Client, shop: Shop
) -> None:
    """A client that has got the first part of the response to its write gets no response from before it."""
    shop.stock = 0
    assert "stored" in (await read(client, "/list/tea"))[2]
    shop.stock = 1
    shop.gate.clear()
    async with client.put("/list/tea") as response:
        assert await response.content.readexactly(2) == b"1,"
        shop.stock = 0
        assert "hit" not in (await read(client, "/list/tea"))[2]
        shop.gate.set()


async def test_revalidation_sends_nothing_to_a_client(client: Client, shop: Shop) -> None:
    """A handler that sends its response itself cannot do so in a run of the cache: the client has its own already."""
    shop.stock, shop.headers = 0, {"Cache-Control": "max-age=0, stale-while-revalidate=60"}
    await read(client, "/list/tea")
    shop.stock = 1
    assert (await read(client, "/list/tea"))[1] == "1"
    await await_until(lambda: shop.runs["list"] == 2)
    for _ in range(2):
        # Over the same connection.
        assert (await read(client, "/list/tea"))[1] == "1"


async def test_generated_body_is_not_reported_as_stored(client: Client) -> None:
    """`Cache-Status` does not say `stored` for a body that is generated while it is sent."""
    for _ in range(2):
        assert "stored" not in (await read(client, "/list/tea/parts"))[2]


async def test_host_of_the_request_line_poisons_no_response(client: Client) -> None:
    """A target in absolute form, whose host replaces that of the field Host for the handler, is another URI."""
    reader, writer = await asyncio.open_connection(client.host, client.port)
    own = f"{client.host}:{client.port}"
    writer.write(
        f"GET http://evil/host HTTP/1.1\r\nHost: {own}\r\nConnection: close\r\n\r\n".encode()
    )
    assert b"http://evil/host" in await reader.read()
    writer.close()
    assert (await read(client, "/host"))[1] == f"http://{own}/host"


async def test_fields_in_utf8_are_kept(client: Client, shop: Shop) -> None:
    """A field that is not Latin-1, as aiohttp sends it, is that of hits too, and of a write."""
    shop.headers = {"X-Shelf": "\u68da \u00e9"}
    for _ in range(2):
        async with client.get("/stock/tea") as response:
            assert response.headers["X-Shelf"] == "\u68da \u00e9"
    async with client.put("/stock/tea", data="2") as response:
        assert (response.status, response.headers["X-Shelf"]) == (200, "\u68da \u00e9")
