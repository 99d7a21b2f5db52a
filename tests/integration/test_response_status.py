"""What `Cache-Status` says of a response on demand, under both middlewares."""

from __future__ import annotations

import re
from itertools import count
from typing import TYPE_CHECKING, Any

import httpx
import pytest
from aiohttp import web
from aiohttp.test_utils import TestClient, TestServer

from async_redis_cache import AsyncRedisCache
from async_redis_cache import aiohttp as on_aiohttp
from async_redis_cache._http import response_options, response_store
from async_redis_cache.asgi import ResponseCache, ResponseOptions
from harness import await_until
from harness.responses import Answer, ask

if TYPE_CHECKING:
    from harness import Server

pytestmark = pytest.mark.depends_on()

IDENTITY = "id-of-ann"
RULES: dict[str, ResponseOptions] = {
    "*": {"ttl": 60, "vary_on": lambda _: IDENTITY, "ignored_parameters": ["utm"]}
}
PATH = "/page?utm=1&q=%22"
SECRETS = {"Authorization": "Bearer secret", "Cookie": "session=secret"}
KEY = 'key="http://shop/page?q=%22"'


async def page(scope: Any, receive: Any, send: Any) -> None:
    """Send a response that requests with `Authorization` share."""
    headers = [(b"cache-control", b"public"), (b"vary", b"Cookie, Authorization")]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": b"x"})


async def aiohttp_page(_: web.Request) -> web.StreamResponse:
    return web.Response(headers={"Cache-Control": "public", "Vary": "Cookie, Authorization"})


def check(statuses: list[str]) -> None:
    """Check the `Cache-Status` of a request that is forwarded, and of one that is not."""
    missed, hit = statuses
    assert missed == f"async-redis-cache; fwd=uri-miss; stored; {KEY}"
    assert hit.startswith("async-redis-cache; hit; ttl=")
    assert hit.endswith(f"; {KEY}")


async def test_key_is_shown_by_asgi_on_demand(any_server: Server, key_prefix: str) -> None:
    """With `shows_key`, the key of the URI is shown, but no identity, token or hash of them."""
    async with AsyncRedisCache.from_url(any_server.url, key_prefix=key_prefix) as cache:
        cached = ResponseCache(page, cache=cache, rules=RULES, shows_key=True)
        transport = httpx.ASGITransport(cached)
        async with httpx.AsyncClient(transport=transport, base_url="http://shop") as client:
            answers = [await client.get(PATH, headers=SECRETS) for _ in range(2)]
    check([answer.headers["cache-status"] for answer in answers])


async def test_key_is_shown_by_aiohttp_on_demand(any_server: Server, key_prefix: str) -> None:
    """The middleware of aiohttp has the same option."""
    cache = AsyncRedisCache.from_url(any_server.url, key_prefix=key_prefix)
    middleware = on_aiohttp.response_cache(rules=RULES, shows_key=True)
    app = web.Application(middlewares=[middleware])
    app.cleanup_ctx.append(on_aiohttp.cache_context(cache))
    app.router.add_get("/page", aiohttp_page)
    async with TestClient(TestServer(app)) as client:
        headers = {"Host": "shop", **SECRETS}
        answers = [await client.get(PATH, headers=headers) for _ in range(2)]
        check([answer.headers["Cache-Status"] for answer in answers])


async def test_no_response_is_stored_while_the_server_is_unreachable(
    key_prefix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While no read succeeds, `Cache-Status` says so, and does not claim `stored`, however long ago the last read was."""
    monkeypatch.setattr(response_store, "_PAUSE", 0.0)
    url = "redis://127.0.0.1:1"
    async with AsyncRedisCache.from_url(
        url, key_prefix=key_prefix, require_connection=False
    ) as cache:
        cached = ResponseCache(page, cache=cache, rules=RULES)
        answers = [await ask(cached, PATH) for _ in range(2)]
    statuses = {dict(answer.headers)["cache-status"] for answer in answers}
    assert statuses == {"async-redis-cache; fwd=uri-miss; detail=unavailable"}


async def test_response_that_takes_too_long_is_not_stored(
    any_server: Server, key_prefix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A response that comes after other requests have stopped waiting for it does not claim to be stored."""
    monkeypatch.setattr(response_options, "_WAIT_SECONDS", 0.01)

    async def slow(scope: Any, receive: Any, send: Any) -> None:
        await await_until(lambda: not cached._settings.store._tasks)
        await page(scope, receive, send)

    async with AsyncRedisCache.from_url(any_server.url, key_prefix=key_prefix) as cache:
        cached = ResponseCache(slow, cache=cache, rules=RULES)
        status = "fwd=bypass"
        for number in count():
            # A slow machine takes too long before the handler runs. The time limit of the test ends this.
            if "fwd=bypass" not in status:
                break
            status = (await ask(cached, f"/{number}")).headers["cache-status"]
    assert status == "async-redis-cache; fwd=uri-miss"


async def test_client_without_a_login_does_not_disable_the_cache_for_others(
    any_server: Server, key_prefix: str
) -> None:
    """A personal response that cannot be stored, such as 401, leaves the responses of other clients to be stored."""

    async def personal(scope: Any, receive: Any, send: Any) -> None:
        status = 200 if scope["query_string"] else 401
        await send({"type": "http.response.start", "status": status, "headers": []})
        await send({"type": "http.response.body", "body": scope["query_string"]})

    rules: dict[str, ResponseOptions] = {
        "*": {
            "ttl": 60,
            "vary_on": lambda scope: scope["query_string"].decode(),
            "ignored_parameters": ["user"],
        }
    }
    async with AsyncRedisCache.from_url(any_server.url, key_prefix=key_prefix) as cache:
        cached = ResponseCache(personal, cache=cache, rules=rules)
        answers = [
            await ask(cached, query=query) for query in ("", "user=ann", "", "user=ann", "user=bob")
        ]
    assert [answer.status for answer in answers] == [401, 200, 401, 200, 200]
    assert [answer.body for answer in answers[1::2]] == [b"user=ann"] * 2
    assert "; hit" in dict(answers[3].headers)["cache-status"]
    assert answers[4].body == b"user=bob"


@pytest.mark.parametrize(
    "start",
    [
        {"headers": [(b"Content-Type", b"text/event-stream; charset=utf-8")]},
        {"headers": [], "trailers": True},
    ],
    ids=["event stream", "trailers"],
)
async def test_stream_that_is_passed_on_is_not_reported_as_stored(
    any_server: Server, key_prefix: str, start: dict[str, Any]
) -> None:
    """An event stream and a response with trailers are not stored, and their `Cache-Status` says so."""

    async def stream(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, **start})
        await send({"type": "http.response.body", "body": b"data: 1\n\n"})

    rules: dict[str, ResponseOptions] = {"*": {"ttl": 60}}
    async with AsyncRedisCache.from_url(any_server.url, key_prefix=key_prefix) as cache:
        cached = ResponseCache(stream, cache=cache, rules=rules)
        answers = [await ask(cached) for _ in range(2)]
    assert [dict(answer.headers)["cache-status"] for answer in answers] == [
        "async-redis-cache; fwd=uri-miss",
        "async-redis-cache; fwd=bypass",
    ]


FIELDS: dict[str, list[tuple[bytes, bytes]]] = {
    "/fresh": [],
    "/private": [(b"cache-control", b"private")],
    "/vary": [(b"vary", b"X-Tenant")],
    "/stale": [
        (b"cache-control", b"max-age=60"),
        (b"age", b"90"),
        (b"last-modified", b"Sun, 06 Nov 1994 08:49:37 GMT"),
    ],
    "/valid": [(b"cache-control", b"max-age=60"), (b"age", b"90"), (b"etag", b'"1"')],
}
"""The fields of responses, by path. `/valid` is confirmed with 304."""


async def by_path(scope: Any, receive: Any, send: Any) -> None:
    """Send the response of a path."""
    is_valid = (b"if-none-match", b'"1"') in scope["headers"]
    headers = FIELDS[scope["path"]]
    status = 304 if is_valid else 200
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": b"" if is_valid else b"x"})


async def ask_line(app: Any, line: str) -> Answer:
    """Send a request, as in `GET /path Field:value`."""
    method, uri, *fields = line.split(" ")
    path, _, query = uri.partition("?")
    headers = [("host", "shop")]
    for field in fields:
        name, _, value = field.lower().partition(":")
        headers.append((name, value))
    return await ask(app, path, headers, method=method, query=query)


@pytest.mark.parametrize(
    ("before", "asked", "status"),
    [
        ([], "GET /fresh", "fwd=uri-miss; stored"),
        (["GET /fresh"], "GET /fresh", "hit; ttl=N"),
        (["GET /fresh"], "HEAD /fresh", "hit; ttl=N"),
        (["GET /vary X-Tenant:a"], "GET /vary X-Tenant:b", "fwd=vary-miss; stored"),
        (["GET /stale"], "GET /stale", "fwd=stale; stored"),
        (["GET /stale"], "GET /stale Cache-Control:max-stale=60", "hit; ttl=N"),
        (["GET /stale"], "GET /stale Cache-Control:max-stale=20", "fwd=stale; stored"),
        (["GET /valid"], "GET /valid", "fwd=stale; fwd-status=304; stored; ttl=N"),
        ([], "HEAD /fresh", "fwd=miss"),
        ([], "POST /fresh", "fwd=method"),
        (["GET /fresh"], "GET /fresh Range:bytes=0-1", "fwd=partial"),
        ([], "GET /fresh Cache-Control:no-store", "fwd=request"),
        (["GET /fresh"], "GET /fresh Cache-Control:no-cache", "fwd=request; stored"),
        (["GET /fresh"], "HEAD /fresh Cache-Control:no-cache", "fwd=request"),
        (["GET /fresh"], "GET /fresh Content-Length:1", "fwd=bypass"),
        (["GET /private"], "GET /private", "fwd=bypass"),
        (["GET /fresh"], "GET /fresh?unknown=1", "fwd=bypass"),
    ],
)
async def test_status_says_how_a_request_was_handled(
    any_server: Server, key_prefix: str, before: list[str], asked: str, status: str
) -> None:
    """RFC 9211, section 2: a hit, or why the request went to the application, and what became of its response."""
    rules: dict[str, ResponseOptions] = {
        "*": {"ttl": 60, "parameters": ["known"], "follows_requests": True}
    }
    async with AsyncRedisCache.from_url(any_server.url, key_prefix=key_prefix) as cache:
        cached = ResponseCache(by_path, cache=cache, rules=rules)
        for line in before:
            await ask_line(cached, line)
        answer = await ask_line(cached, asked)
        await cached.close()
    found = answer.headers["cache-status"].removeprefix("async-redis-cache; ")
    assert re.sub(r"(?<=ttl=)-?\d+", "N", found) == status


async def test_request_for_a_stored_response_only_runs_nothing(
    any_server: Server, key_prefix: str
) -> None:
    """RFC 9111, section 5.2.1.7: `only-if-cached` gets 504 where nothing is stored, if directives of requests apply."""
    runs: list[str] = []

    async def counted(scope: Any, receive: Any, send: Any) -> None:
        runs.append(scope["path"])
        await by_path(scope, receive, send)

    rules: dict[str, ResponseOptions] = {
        "/fresh": {"ttl": 60, "follows_requests": True},
        "/vary": {"ttl": 60},
    }
    headers = [("host", "shop"), ("cache-control", "only-if-cached")]
    async with AsyncRedisCache.from_url(any_server.url, key_prefix=key_prefix) as cache:
        cached = ResponseCache(counted, cache=cache, rules=rules)
        assert await ask(cached, "/fresh", headers) == (504, {"content-length": "0"}, b"")
        assert runs == []
        await ask(cached, "/fresh")
        assert (await ask(cached, "/fresh", headers)).body == b"x"
        assert (await ask(cached, "/vary", headers)).status == 200
        await cached.close()
    assert runs == ["/fresh", "/vary"]


async def test_body_that_becomes_too_long_is_not_stored(
    any_server: Server, key_prefix: str
) -> None:
    """A body whose parts become more than `max_body` is passed on whole, whatever its header says of its length."""
    runs: list[str] = []

    async def parts(scope: Any, receive: Any, send: Any) -> None:
        runs.append(scope["path"])
        await send({"type": "http.response.start", "status": 200, "headers": []})
        for part in (b"123", b"456"):
            await send({"type": "http.response.body", "body": part, "more_body": True})
        await send({"type": "http.response.body"})

    rules: dict[str, ResponseOptions] = {
        "/short": {"ttl": 60, "max_body": 5},
        "/long": {"ttl": 60, "max_body": 6},
    }
    async with AsyncRedisCache.from_url(any_server.url, key_prefix=key_prefix) as cache:
        cached = ResponseCache(parts, cache=cache, rules=rules)
        for path in ("/short", "/long") * 2:
            assert (await ask(cached, path)).body == b"123456"
        await cached.close()
    assert runs == ["/short", "/long", "/short"]
