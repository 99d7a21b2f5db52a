"""`ResponseCache` in front of ASGI applications, on a real server."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from functools import partial
from typing import Annotated, Any

import httpx
import pytest
from fastapi import Depends, FastAPI, Header, HTTPException, Request, Response
from fastapi.security import HTTPBasic, HTTPBasicCredentials
from starlette.middleware.cors import CORSMiddleware
from starlette.middleware.gzip import GZipMiddleware
from starlette.responses import StreamingResponse

from async_redis_cache import AsyncRedisCache
from async_redis_cache.asgi import (
    ResponseCache,
    ResponseOptions,
    add_response_tags,
    cache_response,
)
from async_redis_cache.fastapi import cache_response as cache_dependency
from harness import Server, await_until
from harness.responses import client_of, waiting, waiting_requests

CLOSED = 1
"""A port on which nothing listens."""
Handler = Callable[..., Awaitable[Any]]


class Shop:
    """An application that counts the runs of its handlers, and that tests hold back and fail."""

    def __init__(self) -> None:
        self.runs: Counter[str] = Counter()
        self.stock = 1
        self.gate = asyncio.Event()
        self.gate.set()
        self.headers: dict[str, str] = {}
        self.status = 200

    def ran(self, item: str, runs: int) -> bool:
        """Return whether the handler has run so often."""
        return self.runs[item] == runs

    def app(self) -> FastAPI:
        """The application."""
        app = FastAPI()
        app.get("/stock/{item}")(cache_response(ttl=60, tags=["stock"])(self.read))
        app.put("/stock/{item}")(self.write)
        app.delete("/stock/{item}")(self.sell)
        return app

    async def read(self, request: Request, item: str) -> Response:
        """Return the stock, after the gate is open."""
        self.runs[item] += 1
        stock = self.stock
        add_response_tags(f"item:{item}")
        await self.gate.wait()
        return Response(f"{item} {stock}", self.status, headers=self.headers)

    async def write(self, item: str, amount: int) -> str:
        """Set the stock."""
        self.stock = amount
        return item

    async def sell(self, item: str) -> str:
        """Change the stock by a request whose URI is that of the responses."""
        self.stock += 1
        return item


@pytest.fixture
async def shop() -> Shop:
    return Shop()


@pytest.fixture
async def client(shop: Shop, server: Server, key_prefix: str) -> AsyncIterator[httpx.AsyncClient]:
    async with client_of(shop.app(), server, key_prefix) as client:
        yield client


async def test_stored_response_is_served_without_a_run(
    client: httpx.AsyncClient, shop: Shop
) -> None:
    """A hit has the status, fields and body of the first response, its age and what the cache did."""
    shop.headers = {"X-Shelf": "3", "Connection": "X-Hop", "X-Hop": "1"}
    first = await client.get("/stock/tea")
    second = await client.get("/stock/tea")
    assert first.headers["cache-status"] == "shop; fwd=uri-miss; stored"
    assert (second.status_code, second.text, second.headers["x-shelf"]) == (200, "tea 1", "3")
    assert second.headers["cache-status"].startswith("shop; hit; ttl=")
    assert int(second.headers["age"]) >= 0
    assert first.headers["etag"] == second.headers["etag"]
    assert "x-hop" not in second.headers
    assert shop.runs == {"tea": 1}


async def test_concurrent_requests_share_one_run(
    shop: Shop, server: Server, key_prefix: str
) -> None:
    """100 requests for a response that is not stored, in two caches, run the handler once."""
    app = shop.app()
    shop.gate.clear()
    async with (
        client_of(app, server, key_prefix) as one,
        client_of(app, server, key_prefix) as other,
    ):
        requests = [asyncio.ensure_future(each.get("/stock/tea")) for each in [one, other] * 50]
        await await_until(lambda: waiting_requests(one) == waiting_requests(other) == 50)
        shop.gate.set()
        responses = await asyncio.gather(*requests)
    assert {response.text for response in responses} == {"tea 1"}
    assert shop.runs == {"tea": 1}
    assert sum("collapsed" in response.headers["cache-status"] for response in responses) >= 49


async def test_response_for_one_client_is_not_shared(client: httpx.AsyncClient, shop: Shop) -> None:
    """Requests that waited for a response with a cookie, or a private one, run the handler themselves."""
    for headers in ({"Set-Cookie": "session=1"}, {"Cache-Control": "private, max-age=60"}):
        shop.headers, shop.runs = headers, Counter()
        shop.gate.clear()
        item = f"of-{next(iter(headers))}"
        requests = [asyncio.ensure_future(client.get(f"/stock/{item}")) for _ in range(10)]
        await await_until(partial(shop.ran, item, 1))
        shop.gate.set()
        await asyncio.gather(*requests)
        assert shop.runs[item] == 10
        assert (await client.get(f"/stock/{item}")).headers["cache-status"] == "shop; fwd=bypass"


async def test_response_without_freshness_is_not_reported_as_stored(
    client: httpx.AsyncClient, shop: Shop
) -> None:
    """A response that is never fresh is passed on, without `stored` in its `Cache-Status`."""
    shop.headers = {"Cache-Control": "max-age=0"}
    first = await client.get("/stock/tea")
    second = await client.get("/stock/tea")
    assert first.headers["cache-status"] == "shop; fwd=uri-miss"
    assert second.headers["cache-status"] == "shop; fwd=bypass"
    assert shop.runs == {"tea": 2}


async def admitted(right: Annotated[str, Header()]) -> None:
    if right != "read":
        raise HTTPException(403)


async def test_authorization_runs_before_a_hit(server: Server, key_prefix: str) -> None:
    """A dependency runs for a stored response too: a client without the right gets 403."""
    app, runs = FastAPI(), Counter[str]()

    @app.get("/report")
    @cache_response(ttl=60)
    async def report(_: Annotated[None, Depends(admitted)]) -> dict[str, int]:
        runs["report"] += 1
        return {"total": 7}

    async with client_of(app, server, key_prefix) as client:
        for _ in range(2):
            assert (await client.get("/report", headers={"right": "read"})).json() == {"total": 7}
            assert (await client.get("/report", headers={"right": "none"})).status_code == 403
    assert runs["report"] == 1


async def test_dependency_opts_in_a_route(server: Server, key_prefix: str) -> None:
    """`Depends(cache_response(...))`, behind a dependency that checks rights, does what the decorator does."""
    app, runs = FastAPI(), Counter[str]()
    rights = [Depends(admitted), Depends(cache_dependency(ttl=60))]

    @app.get("/report", dependencies=rights)
    async def report() -> dict[str, int]:
        runs["report"] += 1
        return {"total": 7}

    async with client_of(app, server, key_prefix) as client:
        for _ in range(2):
            assert (await client.get("/report", headers={"right": "read"})).json() == {"total": 7}
            assert (await client.get("/report", headers={"right": "none"})).status_code == 403
    assert runs["report"] == 1


def user(credentials: Annotated[HTTPBasicCredentials, Depends(HTTPBasic())]) -> str:
    """Return the name that a client has logged in with."""
    return credentials.username


@pytest.mark.parametrize("is_first", [False, True])
async def test_dependency_runs_behind_security_schemes(
    server: Server, key_prefix: str, *, is_first: bool
) -> None:
    """A stored page is not served without the login that a parameter demands: in the wrong order, it is not served at all."""
    app, cached = FastAPI(), Depends(cache_dependency(ttl=60))
    rights = [cached] if is_first else [Depends(user), cached]

    @app.get("/report", dependencies=rights)
    async def report(_: Annotated[str, Depends(user)]) -> Response:
        return Response("secret", headers={"Cache-Control": "public"})

    async with client_of(app, server, key_prefix) as client:
        known = await client.get("/report", auth=("a", "b"))
        assert known.status_code == (500 if is_first else 200)
        unknown = await client.get("/report")
        assert unknown.status_code == (500 if is_first else 401)


async def test_variants_are_stored_and_invalidated_together(
    client: httpx.AsyncClient, shop: Shop
) -> None:
    """Each variant of a URI is stored by the fields of `Vary`; a write to the URI invalidates all."""
    shop.headers = {"Vary": "X-Tenant"}
    for _ in range(2):
        for tenant in ("a", "b"):
            assert (await client.get("/stock/tea", headers={"X-Tenant": tenant})).text == "tea 1"
        assert (await client.get("/stock/tea")).text == "tea 1"
    assert shop.runs["tea"] == 3
    await client.put("/stock/tea", params={"amount": 2})
    # The URI of the write has a query. That of the same path without one is another resource.
    assert (await client.get("/stock/tea")).text == "tea 1"
    await client.put("/stock/tea?amount=2")
    for tenant in ("a", "b"):
        assert (
            await client.get("/stock/tea?amount=2", headers={"X-Tenant": tenant})
        ).text == "tea 2"


async def test_vary_that_grows_selects_new_variants(client: httpx.AsyncClient, shop: Shop) -> None:
    """A response with another field in `Vary` is served to no request that differs in that field."""
    shop.headers = {"Vary": "X-Tenant"}
    await client.get("/stock/tea", headers={"X-Tenant": "a", "X-User": "1"})
    shop.headers, shop.stock = {"Vary": "X-Tenant, X-User"}, 2
    await client.get("/stock/tea", headers={"X-Tenant": "b", "X-User": "1"})
    shop.stock = 3
    response = await client.get("/stock/tea", headers={"X-Tenant": "b", "X-User": "2"})
    assert response.text == "tea 3"


async def test_identity_selects_personal_responses(
    shop: Shop, server: Server, key_prefix: str
) -> None:
    """With `vary_on`, a response is served to the same identity only, which is not stored."""

    def user(request: Request) -> str:
        return request.headers["x-user"]

    rules = {"/stock/*": ResponseOptions(ttl=60, vary_on=user)}
    async with client_of(shop.app(), server, key_prefix, rules=rules) as client:
        for name in ("ann", "bob", "ann", "bob"):
            shop.stock += 1
            await client.get("/stock/tea", headers={"X-User": name})
        assert (await client.get("/stock/tea", headers={"X-User": "ann"})).text == "tea 2"
        assert (await client.get("/stock/tea", headers={"X-User": "bob"})).text == "tea 3"
    assert shop.runs["tea"] == 2


@pytest.mark.parametrize("by_tag", [False, True])
async def test_response_invalidated_during_its_run_is_not_stored(
    client: httpx.AsyncClient, shop: Shop, server: Server, key_prefix: str, by_tag: bool
) -> None:
    """A write, by its URI or by a tag, that is acknowledged while a handler runs, is seen by the next request."""
    shop.gate.clear()
    reading = asyncio.ensure_future(client.get("/stock/tea"))
    await await_until(partial(shop.ran, "tea", 1))
    if by_tag:
        shop.stock = 2
        async with AsyncRedisCache.from_url(server.url, key_prefix=key_prefix) as cache:
            await cache.invalidate_tags(None, "item:tea")
    else:
        await client.delete("/stock/tea")
    shop.gate.set()
    assert (await reading).text == "tea 1"
    assert (await client.get("/stock/tea")).text == "tea 2"
    assert (await client.get("/stock/tea")).headers["cache-status"].startswith("shop; hit")


async def test_first_part_of_a_stream_is_sent_at_once(server: Server, key_prefix: str) -> None:
    """Server-sent events are passed on as they come, and a body is while it is collected."""
    app, gate = FastAPI(), asyncio.Event()

    async def parts() -> AsyncIterator[bytes]:
        yield b"data: 1\n\n"
        await gate.wait()
        yield b"data: 2\n\n"

    @app.get("/{kind}")
    @cache_response(ttl=60)
    async def stream(kind: str) -> Response:
        return StreamingResponse(
            parts(), media_type="text/event-stream" if kind == "sse" else "text/csv"
        )

    async with AsyncRedisCache.from_url(server.url, key_prefix=key_prefix) as cache:
        cached = ResponseCache(app, cache=cache)
        for kind in ("sse", "csv"):
            gate.clear()
            sent: list[Any] = []
            call = asyncio.ensure_future(
                cached(scope_of(f"/{kind}"), receive_nothing, append_to(sent))
            )
            await await_until(partial(has_length, sent, 2))
            assert sent[1]["body"] == b"data: 1\n\n"
            gate.set()
            await call
        await cached.close()


def scope_of(path: str, **headers: str) -> dict[str, Any]:
    """The scope of a GET request."""
    lines = [(name.replace("_", "-").encode(), value.encode()) for name, value in headers.items()]
    return {
        "type": "http",
        "asgi": {"version": "3.0"},
        "http_version": "1.1",
        "method": "GET",
        "scheme": "http",
        "path": path,
        "raw_path": path.encode(),
        "query_string": b"",
        "root_path": "",
        "headers": lines or [(b"host", b"shop")],
        "client": ("127.0.0.1", 1),
        "server": ("shop", 80),
    }


async def receive_nothing() -> dict[str, Any]:
    """Receive nothing: the client waits, and the handlers do not read the body."""
    waiting: asyncio.Future[dict[str, Any]] = asyncio.get_running_loop().create_future()
    return await waiting


def has_length(sent: list[Any], length: int) -> bool:
    return len(sent) == length


def append_to(sent: list[Any]) -> Callable[[Any], Awaitable[None]]:
    async def send(message: Any) -> None:
        sent.append(message)

    return send


async def test_body_beyond_the_bound_is_passed_on_and_not_stored(
    shop: Shop, server: Server, key_prefix: str
) -> None:
    """A body of more than `max_body` bytes is not stored, and requests do not wait for one another."""
    rules = {"*": ResponseOptions(ttl=60, max_body=4)}
    async with client_of(shop.app(), server, key_prefix, rules=rules) as client:
        for run in (1, 2):
            response = await client.get("/stock/tea")
            assert response.text == "tea 1"
            assert "stored" not in response.headers["cache-status"]
            assert shop.runs["tea"] == run


async def test_cancelled_request_harms_no_other(client: httpx.AsyncClient, shop: Shop) -> None:
    """If the request that runs the handler is cancelled, one that waits for its response runs the handler itself."""
    shop.gate.clear()
    first = asyncio.ensure_future(client.get("/stock/tea"))
    await await_until(lambda: shop.runs["tea"] == 1)
    others = [asyncio.ensure_future(client.get("/stock/tea")) for _ in range(5)]
    await await_until(lambda: waiting_requests(client) == 6)
    first.cancel()
    await await_until(lambda: shop.runs["tea"] > 1)
    shop.gate.set()
    assert {response.text for response in await asyncio.gather(*others)} == {"tea 1"}


async def test_failed_handler_fails_its_own_request(server: Server, key_prefix: str) -> None:
    """An exception of a handler is raised to the request that ran it; others run the handler themselves."""
    app, gate, runs = FastAPI(), asyncio.Event(), Counter[str]()

    @app.get("/page")
    @cache_response(ttl=60)
    async def page() -> str:
        runs["page"] += 1
        if runs["page"] == 1:
            await gate.wait()
            raise RuntimeError
        return "text"

    async with client_of(app, server, key_prefix) as client:
        requests = [asyncio.ensure_future(client.get("/page")) for _ in range(5)]
        await await_until(lambda: runs["page"] == 1)
        gate.set()
        statuses = [response.status_code for response in await asyncio.gather(*requests)]
    assert sorted(statuses) == [200, 200, 200, 200, 500]


async def test_handler_runs_while_the_server_is_unreachable(shop: Shop, key_prefix: str) -> None:
    """Without a server, requests at the same time share one run in their process, and none fails."""
    app = shop.app()
    options: Any = {"key_prefix": key_prefix, "require_connection": False}
    async with AsyncRedisCache.from_url(f"redis://127.0.0.1:{CLOSED}", **options) as cache:
        cached = ResponseCache(app, cache=cache)
        transport = httpx.ASGITransport(cached)
        async with httpx.AsyncClient(transport=transport, base_url="http://shop") as client:
            shop.gate.clear()
            requests = [asyncio.ensure_future(client.get("/stock/tea")) for _ in range(10)]
            await await_until(lambda: waiting(cache) == 10)
            shop.gate.set()
            responses = await asyncio.gather(*requests)
        await cached.close()
    assert {response.text for response in responses} == {"tea 1"}
    assert shop.runs["tea"] == 1


@pytest.mark.parametrize("any_loop", [False, True])
async def test_stale_response_is_served_while_the_application_is_asked(
    shop: Shop, server: Server, key_prefix: str, any_loop: bool
) -> None:
    """stale-while-revalidate: one request of the cache itself runs the handler, and no client waits."""
    shop.headers = {"Cache-Control": "max-age=60, stale-while-revalidate=60", "Age": "60"}
    async with client_of(shop.app(), server, key_prefix, any_loop=any_loop) as client:
        await client.get("/stock/tea")
        shop.stock = 2
        shop.gate.clear()
        stale = await asyncio.gather(*(client.get("/stock/tea") for _ in range(10)))
        assert {response.text for response in stale} == {"tea 1"}
        await await_until(lambda: shop.runs["tea"] == 2)
        shop.gate.set()
        # The time limit of the test ends this.
        while (await client.get("/stock/tea")).text != "tea 2":
            pass


async def test_stale_response_replaces_an_error(
    shop: Shop, server: Server, key_prefix: str
) -> None:
    """stale-if-error: while the handler fails with 503, the stale response is served."""
    shop.headers = {"Cache-Control": "max-age=60, stale-if-error=60", "Age": "60"}
    async with client_of(shop.app(), server, key_prefix) as client:
        await client.get("/stock/tea")
        shop.status = 503
        response = await client.get("/stock/tea")
    assert (response.status_code, response.text) == (200, "tea 1")
    assert "fwd=stale; fwd-status=503" in response.headers["cache-status"]


async def test_application_validates_a_stale_response(
    shop: Shop, server: Server, key_prefix: str
) -> None:
    """A stale response is served again once the application has answered 304, with the cookies of that one only."""
    asked: list[str | None] = []
    app = FastAPI()

    @app.get("/page")
    @cache_response()
    async def page(if_none_match: Annotated[str | None, Header()] = None) -> Response:
        asked.append(if_none_match)
        headers = {"ETag": '"1"', "Cache-Control": "max-age=60", "Age": "60"}
        if if_none_match != '"1"':
            return Response("text", headers=headers)
        response = Response("", 304, headers=headers)
        response.set_cookie("seen", str(len(asked)))
        return response

    rules = {"/page": ResponseOptions()}
    async with client_of(app, server, key_prefix, rules=rules) as client:
        responses = [await client.get("/page") for _ in range(3)]
    assert [response.text for response in responses] == ["text"] * 3
    assert [response.cookies.get("seen") for response in responses] == [None, "2", "3"]
    assert asked == [None, '"1"', '"1"']


async def test_conditional_request_is_answered_from_the_cache(client: httpx.AsyncClient) -> None:
    """If-None-Match with the ETag of a stored response is answered with 304, HEAD without a body."""
    etag = (await client.get("/stock/tea")).headers["etag"]
    response = await client.get("/stock/tea", headers={"If-None-Match": f'"x", {etag}'})
    assert (response.status_code, response.content) == (304, b"")


async def test_head_is_answered_from_a_stored_response(
    shop: Shop, server: Server, key_prefix: str
) -> None:
    """A stored GET response answers HEAD, without its body; a HEAD that finds none is passed on and not stored."""
    rules = {"/stock/*": ResponseOptions(ttl=60)}
    async with client_of(shop.app(), server, key_prefix, rules=rules) as client:
        assert (await client.head("/stock/tea")).status_code == 405
        await client.get("/stock/tea")
        head = await client.head("/stock/tea")
        assert (head.status_code, head.content) == (200, b"")
        assert head.headers["content-length"] == "5"


async def test_range_is_passed_to_the_application(client: httpx.AsyncClient, shop: Shop) -> None:
    """A request for a range is neither answered from the cache nor stored."""
    await client.get("/stock/tea")
    response = await client.get("/stock/tea", headers={"Range": "bytes=0-1"})
    assert response.headers["cache-status"] == "shop; fwd=partial"
    assert shop.runs["tea"] == 2


@pytest.mark.parametrize(
    "headers",
    [
        {"X-Forwarded-Host": "evil"},
        {"Forwarded": "host=evil"},
        {"X-Original-URL": "/admin"},
        {"X-Forwarded-Proto": "https"},
        # Equal to the host, which makes no difference in X-Forwarded-Host only.
        {"X-Forwarded-Prefix": "shop"},
        {"X-HTTP-Method-Override": "DELETE"},
    ],
)
async def test_forwarded_host_poisons_no_other_response(
    client: httpx.AsyncClient, shop: Shop, headers: dict[str, str]
) -> None:
    """A response to a request with a host or path of its own in another field is served to no other client."""
    await client.get("/stock/tea", headers=headers)
    shop.stock = 2
    assert (await client.get("/stock/tea")).text == "tea 2"


async def test_host_is_no_part_of_the_path(shop: Shop, server: Server, key_prefix: str) -> None:
    """A host that could be read as a path is not stored under another URI."""
    app = shop.app()
    async with AsyncRedisCache.from_url(server.url, key_prefix=key_prefix) as cache:
        cached = ResponseCache(app, cache=cache)
        sent: list[Any] = []
        for host, path in (("shop/stock", "/tea"), ("shop/stock/tea?", "/stock/tea")):
            await cached(scope_of(path, host=host), receive_nothing, append_to(sent))
        shop.stock = 2
        await cached(scope_of("/stock/tea"), receive_nothing, append_to(sent))
        assert sent[-1]["body"] == b"tea 2"
        await cached.close()


@pytest.mark.parametrize("is_outside", [False, True])
async def test_compressed_responses_are_served_by_accept_encoding(
    server: Server, key_prefix: str, is_outside: bool
) -> None:
    """Under a compression middleware, and around one, a client gets a coding that it accepts."""
    app, runs = FastAPI(), Counter[str]()

    @app.get("/page")
    @cache_response(ttl=60)
    async def page() -> Response:
        runs["page"] += 1
        return Response("text " * 1000)

    inner = app if is_outside else GZipMiddleware(app)
    async with AsyncRedisCache.from_url(server.url, key_prefix=key_prefix) as cache:
        cached = ResponseCache(inner, cache=cache)
        whole: Any = GZipMiddleware(cached) if is_outside else cached
        transport = httpx.ASGITransport(whole)
        async with httpx.AsyncClient(transport=transport, base_url="http://shop") as client:
            for coding in ("gzip", "identity") * 2:
                response = await client.get("/page", headers={"Accept-Encoding": coding})
                assert response.headers.get("content-encoding", "identity") == coding
                assert response.text == "text " * 1000
        await cached.close()
    assert runs["page"] == (1 if is_outside else 2)


async def test_cors_outside_answers_each_origin_from_one_response(
    server: Server, key_prefix: str
) -> None:
    """Only origins that are allowed get the field, and an invented one does not run the handler."""
    shop = Shop()
    async with AsyncRedisCache.from_url(server.url, key_prefix=key_prefix) as cache:
        cached = ResponseCache(shop.app(), cache=cache)
        app = CORSMiddleware(cached, allow_origins=["http://a", "http://b"], allow_credentials=True)
        transport = httpx.ASGITransport(app)
        async with httpx.AsyncClient(transport=transport, base_url="http://shop") as client:
            for origin in ("http://a", "http://b", "http://a", "http://evil"):
                response = await client.get("/stock/tea", headers={"Origin": origin})
                allowed = response.headers.get("access-control-allow-origin")
                assert allowed == (None if origin == "http://evil" else origin)
        await cached.close()
    assert shop.runs["tea"] == 1
