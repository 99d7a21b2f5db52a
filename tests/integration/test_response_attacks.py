"""Requests that are made to poison, read or flood the responses of `ResponseCache`."""

import gzip
from collections import Counter
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from itertools import product
from typing import Annotated, Any

import pytest
from fastapi import Body, FastAPI, Request, Response

from async_redis_cache import AsyncRedisCache
from async_redis_cache.asgi import ResponseCache, ResponseOptions, cache_response
from harness import Server
from harness.responses import ask, scope_of

pytestmark = pytest.mark.depends_on()

ALL: dict[str, ResponseOptions] = {"*": {"ttl": 60}}
HOST = ("host", "shop")


class Echo:
    """An application that answers with the whole of its request."""

    def __init__(self, *headers: tuple[bytes, bytes]) -> None:
        self.runs = Counter[bytes]()
        self.headers = headers
        self.body: bytes | None = None

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Answer."""
        self.runs[scope["raw_path"]] += 1
        body = repr((scope["raw_path"], scope["query_string"], scope["headers"])).encode()
        start = {"type": "http.response.start", "status": 200, "headers": self.headers}
        await send(start)
        await send({"type": "http.response.body", "body": self.body or body})


@asynccontextmanager
async def cached_app(
    app: Any,
    server: Server,
    key_prefix: str,
    rules: dict[str, ResponseOptions] | None = None,
    **options: Any,
) -> AsyncGenerator[ResponseCache]:
    """The middleware in front of an application."""
    options = {"command_timeout": 10_000, **options}
    async with AsyncRedisCache.from_url(server.url, key_prefix=key_prefix, **options) as cache:
        cached = ResponseCache(app, cache=cache, rules=rules or ALL)
        yield cached
        await cached.close()


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (("/a/b", ""), ("/a%2Fb", "")),
        (("/a%2Fb", ""), ("/a%252Fb", "")),
        (("/a", "x=1"), ("/a%3Fx=1", "")),
        (("/a", "x=1"), ("/a?x=1", "")),
        (("/a", ""), ("/a/", "")),
        (("/a", ""), ("//shop/a", "")),
        (("/a", ""), ("/./a", "")),
        (("/a", ""), ("/A", "")),
        (("/a", ""), ("/a%00", "")),
        (("/a", "x=1&y=2"), ("/a", "x=1%26y=2")),
        (("/a", "x=1&y=2"), ("/a", "x=1;y=2")),
        (("/a", "x=+"), ("/a", "x=%20")),
        (("/é", ""), ("/%C3%A9", "")),
    ],
)
async def test_different_spellings_are_different_responses(
    any_server: Server, key_prefix: str, one: tuple[str, str], other: tuple[str, str]
) -> None:
    """A path or query is part of the key as it was sent: the response to one spelling is served to no other."""
    app = Echo()
    async with cached_app(app, any_server, key_prefix) as cached:
        for (path, query), _ in product((one, other), range(2)):
            answer = await ask(cached, path, [HOST], query=query)
            expected = repr((path.encode("latin-1"), query.encode())).strip("()").encode()
            assert expected in answer.body


async def test_query_does_not_imitate_what_follows_it_in_keys(
    any_server: Server, key_prefix: str
) -> None:
    """A query with a space or control characters, which servers refuse, is passed on and not stored."""
    app = Echo()
    async with cached_app(app, any_server, key_prefix) as cached:
        await ask(cached, "/a", [HOST, ("x-forwarded-host", "evil")])
        for query in (" x-forwarded-host=4:evil", "\r\nset-cookie: a=1", "\x00", "\x7f"):
            for _ in range(2):
                answer = await ask(cached, "/a", [HOST], query=query)
                assert repr(query.encode()).encode() in answer.body
                assert "cache-status" not in answer.headers


@pytest.mark.parametrize(
    "host", ["shop/a", "shop?a", "shop#", "a@shop", "shop ", "shop\r\nx: y", "shop:80:80", "", "é"]
)
async def test_response_for_an_invalid_host_is_not_stored(
    any_server: Server, key_prefix: str, host: str
) -> None:
    """A request whose host is no host, or which has two, is passed on and leaves nothing stored."""
    app = Echo()
    async with cached_app(app, any_server, key_prefix) as cached:
        for _ in range(2):
            await ask(cached, "/a", [("host", host)])
            await ask(cached, "/b", [HOST, ("host", "evil")])
    assert app.runs == {b"/a": 2, b"/b": 2}


@pytest.mark.parametrize(
    "path",
    [
        "/account/x.css",
        "/account;/static/x.css",
        "/account%2Fstatic/x.css",
        "/account%3F.css",
        "/account%0A.css",
        "/account/..%2Fstatic/x.css",
        "/ACCOUNT/static/",
    ],
)
async def test_suffix_of_a_path_opts_nothing_in(
    any_server: Server, key_prefix: str, path: str
) -> None:
    """Cache deception: a personal page is not stored when its path is made to look like that of a static file."""
    app = Echo()
    async with cached_app(app, any_server, key_prefix, {"/static/*": {"ttl": 60}}) as cached:
        for _ in range(2):
            answer = await ask(cached, path, [HOST, ("cookie", "session=1")])
            assert "cache-status" not in answer.headers
    assert app.runs[path.encode()] == 2


async def test_flood_of_queries_is_bounded(any_server: Server, key_prefix: str) -> None:
    """With `max_size`, distinct query strings do not fill the server."""
    async with cached_app(Echo(), any_server, key_prefix, max_size=50) as cached:
        for number in range(500):
            await ask(cached, "/a", query=f"cb={number}")
        with any_server.client() as raw:
            stored = list(raw.scan_iter(f"{key_prefix}responses:*", count=1000))
    assert 0 < len(stored) <= 100


async def test_invented_parameters_are_not_stored(any_server: Server, key_prefix: str) -> None:
    """With `parameters`, a request with any other one runs the handler, and stores nothing."""
    app = Echo()
    rules: dict[str, ResponseOptions] = {
        "*": {"ttl": 60, "parameters": ["page", "size"], "ignored_parameters": ["utm"]}
    }
    async with cached_app(app, any_server, key_prefix, rules) as cached:
        for query in ("", "page=1", "size=9&page=1&page=2&utm=x"):
            for number in range(3):
                await ask(cached, "/a", query=query + (f"&utm={number}" if query else ""))
        assert app.runs[b"/a"] == 3
        for query in ("cb=1", "page=1&cb", "%70age=1", "=", "page=1&"):
            answer = await ask(cached, "/a", query=query)
            assert answer.headers["cache-status"] == "async-redis-cache; fwd=bypass"
        with any_server.client() as raw:
            assert len(list(raw.scan_iter(f"{key_prefix}responses:*", count=1000))) == 3


async def test_ignored_parameter_makes_no_other_response(
    any_server: Server, key_prefix: str
) -> None:
    """However often `ignored_parameters` change, the handler runs once."""
    app = Echo()
    rules: dict[str, ResponseOptions] = {"*": {"ttl": 60, "ignored_parameters": ["cb"]}}
    async with cached_app(app, any_server, key_prefix, rules) as cached:
        for number in range(20):
            await ask(cached, "/a", query=f"cb={number}&cb=x&cb")
    assert app.runs[b"/a"] == 1


async def test_huge_fields_are_hashed(any_server: Server, key_prefix: str) -> None:
    """A variant, an identity and a URI of 100 kB have a short key, and are told apart by their last byte."""
    app = Echo((b"Vary", b"X-Huge"))
    rules: dict[str, ResponseOptions] = {
        "/me": {"ttl": 60, "vary_on": lambda scope: repr(scope["headers"])},
        "*": {"ttl": 60},
    }
    async with cached_app(app, any_server, key_prefix, rules) as cached:
        for path, end, _ in product(("/a", "/me", "/" + "b" * 100_000), "12", range(2)):
            headers = [HOST, ("x-huge", "h" * 100_000 + end)]
            assert f"h{end}')".encode() in (await ask(cached, path, headers)).body
        with any_server.client() as raw:
            keys = list(raw.scan_iter(f"{key_prefix}*", count=1000))
    assert {path[:2]: runs for path, runs in app.runs.items()} == {b"/a": 2, b"/m": 2, b"/b": 2}
    assert max(map(len, keys)) < 600


async def test_compressed_body_is_never_inflated(any_server: Server, key_prefix: str) -> None:
    """A zip bomb is stored and served as the bytes that the application sent, although it is beyond `max_body`."""
    app = Echo((b"Content-Encoding", b"gzip"))
    app.body = gzip.compress(bytes(20_000_000))
    assert len(app.body) < 50_000
    async with cached_app(app, any_server, key_prefix) as cached:
        assert (await ask(cached, "/a")).body == app.body
        answer = await ask(cached, "/a")
        assert answer.body == app.body
        assert "hit" in answer.headers["cache-status"]
        with any_server.client() as raw:
            (key,) = raw.scan_iter(f"{key_prefix}responses:*", count=1000)
            assert raw.memory_usage(key) < 200_000


@pytest.mark.parametrize(
    "name", ["x-forwarded-host", "x-host", "x-forwarded-scheme", "x-original-url", "x-rewrite-url"]
)
async def test_unkeyed_field_poisons_no_response(
    any_server: Server, key_prefix: str, name: str
) -> None:
    """A field that applications make links or routes of is part of the key, so its value reaches no other client."""
    app = Echo()
    async with cached_app(app, any_server, key_prefix) as cached:
        await ask(cached, "/a", [HOST, (name, "evil")])
        assert b"evil" not in (await ask(cached, "/a", [HOST])).body
        assert b"evil" in (await ask(cached, "/a", [HOST, (name, "evil")])).body
    assert app.runs[b"/a"] == 2


@pytest.mark.parametrize(
    ("version", "lines"),
    [
        ("1.1", [("content-length", "6")]),
        ("1.1", [("transfer-encoding", "chunked")]),
        ("2", []),
    ],
)
@pytest.mark.parametrize("path", ["/rule", "/decorated", "/declared"])
async def test_content_of_a_request_poisons_no_response(
    any_server: Server, key_prefix: str, path: str, version: str, lines: list[tuple[str, str]]
) -> None:
    """A GET request may have content, which is not part of the key: what the handler makes of it is not stored."""
    app = FastAPI()

    async def read(request: Request) -> Response:
        return Response(await request.body())

    @cache_response(ttl=60)
    async def declared(text: Annotated[str, Body()] = "none") -> str:
        return text

    app.get("/rule")(read)
    app.get("/decorated")(cache_response(ttl=60)(read))
    # FastAPI reads the content before it calls the handler.
    app.get("/declared")(declared)
    sent: list[Any] = []

    async def send(message: Any) -> None:
        sent.append(message)

    async def receive() -> Any:
        return {"type": "http.request", "body": b'"evil"'}

    lines = [HOST, ("content-type", "application/json"), *lines]
    rules: dict[str, ResponseOptions] = {"/rule": {"ttl": 60}}
    async with cached_app(app, any_server, key_prefix, rules) as cached:
        await cached({**scope_of(path, lines), "http_version": version}, receive, send)
        assert sent[-1]["body"] == b'"evil"'
        answer = await ask(cached, path)
        assert b"evil" not in answer.body
        assert "stored" in answer.headers["cache-status"]
