"""`ResponseCache` in front of applications that fail, are cut off or answer one client only."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, MutableMapping
from typing import Any

import httpx
import pytest
from fastapi import FastAPI, Request, Response
from starlette.applications import Starlette
from starlette.background import BackgroundTask
from starlette.responses import StreamingResponse
from starlette.routing import Mount, Route

from async_redis_cache import AsyncRedisCache
from async_redis_cache._http import response_options
from async_redis_cache._http.messages import RECORDS, Uncacheable
from async_redis_cache._http.response_store import Lead, ResponseStore, Terms
from async_redis_cache.asgi import ResponseCache, ResponseOptions, cache_response
from harness import Server, StartServer, await_until
from harness.responses import Answer, ask, client_of, scope_of, waiting, waiting_requests

pytestmark = pytest.mark.depends_on()

ALL: dict[str, ResponseOptions] = {"*": {"ttl": 60}}
Message = MutableMapping[str, Any]
Send = Callable[[Message], Awaitable[None]]


class Page:
    """An application with one page: tests replace its response, and hold it back."""

    def __init__(self) -> None:
        self.runs = 0
        self.gate = asyncio.Event()
        self.gate.set()
        self.text = "one"
        self.status = 200
        self.headers: dict[str, str] = {}
        self.error: Exception | None = None

    async def __call__(self, scope: MutableMapping[str, Any], receive: Any, send: Send) -> None:
        """Send the page when the gate is open."""
        self.runs += 1
        text, status, headers = self.text, self.status, dict(self.headers)
        await self.gate.wait()
        if self.error is not None:
            raise self.error
        await Response(text, status, headers)(scope, receive, send)


@pytest.fixture
async def page() -> Page:
    return Page()


@pytest.fixture
async def client(
    page: Page, any_server: Server, key_prefix: str
) -> AsyncIterator[httpx.AsyncClient]:
    async with client_of(page, any_server, key_prefix, ALL) as client:
        yield client


async def receive_nothing() -> Message:
    """Receive nothing: the handlers do not read the body of the request."""
    raise AssertionError


def started(
    client: httpx.AsyncClient, number: int, **options: Any
) -> list[asyncio.Task[httpx.Response]]:
    """Requests for the page that have begun."""
    return [asyncio.ensure_future(client.get("/page", **options)) for _ in range(number)]


async def test_requests_that_wait_share_the_next_run_after_a_cancelled_one(
    client: httpx.AsyncClient, page: Page
) -> None:
    """If the request that runs the handler is cancelled, one of those that wait runs it for all of them."""
    page.gate.clear()
    (first,) = started(client, 1)
    await await_until(lambda: page.runs == 1)
    others = started(client, 50)
    await await_until(lambda: waiting_requests(client) == 51)
    first.cancel()
    await await_until(lambda: page.runs == 2 and waiting_requests(client) == 50)
    page.gate.set()
    assert {response.text for response in await asyncio.gather(*others)} == {"one"}
    assert page.runs == 2


async def test_body_shorter_than_announced_is_not_stored(
    client: httpx.AsyncClient, page: Page
) -> None:
    """A response whose Content-Length is not the length of its body is served to no other client."""
    page.headers = {"Content-Length": "4"}
    for run in (1, 2):
        await client.get("/page")
        assert page.runs == run


@pytest.mark.parametrize("parts", [0, 1, 3])
async def test_response_that_breaks_off_is_not_stored(
    any_server: Server, key_prefix: str, parts: int
) -> None:
    """An exception after the start of the response, or after some of its body, leaves nothing stored."""
    runs = 0

    async def body() -> AsyncIterator[bytes]:
        for _ in range(parts):
            yield b"part"
        if runs == 1:
            raise ConnectionError

    async def app(scope: Any, receive: Any, send: Send) -> None:
        nonlocal runs
        runs += 1
        await StreamingResponse(body())(scope, receive, send)

    async with client_of(app, any_server, key_prefix, ALL) as client:
        await client.get("/page")
        for _ in range(2):
            assert (await client.get("/page")).text == "part" * parts
    assert runs == 2


async def test_background_task_does_not_delay_other_requests(
    any_server: Server, key_prefix: str
) -> None:
    """A response is stored when its last part is sent, not when the background tasks of the handler have ended."""
    over, runs = asyncio.Event(), 0

    async def app(scope: Any, receive: Any, send: Send) -> None:
        nonlocal runs
        runs += 1
        await Response("text", background=BackgroundTask(over.wait))(scope, receive, send)

    async with client_of(app, any_server, key_prefix, ALL) as client:
        (first,) = started(client, 1)
        await await_until(lambda: runs == 1)
        assert (await client.get("/page")).text == "text"
        assert not first.done()
        over.set()
        await first
    assert runs == 1


async def test_variant_of_a_stream_is_stored(any_server: Server, key_prefix: str) -> None:
    """A stream is stored whole, although its framework stops it when the server says that the client has it all."""
    runs = 0

    async def parts() -> AsyncIterator[bytes]:
        yield b"one "
        yield b"two"

    async def app(scope: Any, receive: Any, send: Send) -> None:
        nonlocal runs
        runs += 1
        await StreamingResponse(parts(), headers={"Vary": "Accept"})(scope, receive, send)

    async with client_of(app, any_server, key_prefix, ALL) as client:
        for _ in range(2):
            assert (await client.get("/page")).text == "one two"
    assert runs == 1


@pytest.mark.parametrize("directives", [b"no-cache", b"max-age=0, stale-if-error=60"])
async def test_response_that_is_stale_at_once_is_not_reused(
    any_server: Server, key_prefix: str, directives: bytes
) -> None:
    """A request that begins when the client has all of a response that is stale at once does not get that response."""
    runs, asked = 0, asyncio.Event()
    headers = [(b"Cache-Control", directives), (b"ETag", b'"1"'), (b"Content-Length", b"4")]

    async def app(scope: Any, receive: Any, send: Send) -> None:
        nonlocal runs
        runs += 1
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": b"text", "more_body": True})
        if runs == 1:
            await asked.wait()
        await send({"type": "http.response.body", "body": b""})

    async with AsyncRedisCache.from_url(any_server.url, key_prefix=key_prefix) as cache:
        cached = ResponseCache(app, cache=cache, rules=ALL)
        following: list[asyncio.Task[Answer]] = []

        async def send(message: Message) -> None:
            if message.get("more_body"):
                following.append(asyncio.ensure_future(ask(cached)))
                # It waits for the first one.
                await asyncio.wait(following, timeout=0.1)
                asked.set()

        await cached(scope_of("/page"), receive_nothing, send)
        await following[0]
        await cached.close()
    assert runs == 2


async def test_listeners_of_an_event_stream_do_not_wait_for_one_another(
    any_server: Server, key_prefix: str
) -> None:
    """Each request for an event stream is passed on, although the rule of the route has a TTL."""
    over, runs = asyncio.Event(), 0

    async def events() -> AsyncIterator[bytes]:
        yield b"data: 1\n\n"
        await over.wait()

    async def app(scope: Any, receive: Any, send: Send) -> None:
        nonlocal runs
        runs += 1
        await StreamingResponse(events(), media_type="text/event-stream")(scope, receive, send)

    async with client_of(app, any_server, key_prefix, ALL) as client:
        listening = started(client, 5)
        await await_until(lambda: runs == 5)
        over.set()
        await asyncio.gather(*listening)


async def test_exception_is_replaced_by_a_stale_response(
    any_server: Server, key_prefix: str, page: Page, caplog: pytest.LogCaptureFixture
) -> None:
    """stale-if-error applies to a handler that raises, and its exception is logged."""
    page.headers = {"Cache-Control": "max-age=60, stale-if-error=60", "Age": "60"}
    async with client_of(page, any_server, key_prefix, ALL) as client:
        await client.get("/page")
        page.error = ConnectionError("the database is unreachable")
        response = await client.get("/page")
        assert (response.status_code, response.text) == (200, "one")
        assert "fwd=stale; fwd-status=500" in response.headers["cache-status"]
        assert "the database is unreachable" in caplog.text
        page.headers = {}
        page.error = None
        assert (await client.get("/page")).headers["cache-status"].endswith("stored")
        page.error = ConnectionError()
        assert (await client.get("/page")).status_code == 200


@pytest.mark.parametrize("error", [None, ConnectionError()], ids=["status", "exception"])
async def test_requests_that_wait_share_the_replacement_of_an_error(
    any_server: Server, key_prefix: str, page: Page, error: Exception | None
) -> None:
    """stale-if-error: one run fails for all requests that wait, and each gets the stale response."""
    page.headers = {"Cache-Control": "max-age=60, stale-if-error=60", "Age": "60"}
    async with client_of(page, any_server, key_prefix, ALL) as client:
        await client.get("/page")
        page.status, page.error = 503, error
        page.gate.clear()
        requests = started(client, 1)
        # A request that has read before the lease was acquired may wait for that in a load of its own.
        await await_until(lambda: page.runs == 2)
        requests += started(client, 19)
        await await_until(lambda: waiting_requests(client) == 20)
        page.gate.set()
        statuses = {response.status_code for response in await asyncio.gather(*requests)}
    assert statuses == {200}
    assert page.runs == 2


async def test_handler_slower_than_the_deadline_of_the_load_is_still_replaced(
    any_server: Server, key_prefix: str, page: Page, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A 503 response that comes after the requests that waited have given up is replaced by the stale response."""
    monkeypatch.setattr(response_options, "_WAIT_SECONDS", 0.2)
    page.headers = {"Cache-Control": "max-age=60, stale-if-error=60", "Age": "60"}
    async with client_of(page, any_server, key_prefix, ALL) as client:
        await client.get("/page")
        page.status = 503
        page.gate.clear()
        first, second = started(client, 2)
        # The second one gives up.
        await await_until(lambda: second.done() or page.runs == 3)
        page.gate.set()
        await second
        assert (await first).status_code == 200


async def test_requests_of_one_client_do_not_keep_a_page_out_of_the_cache(
    client: httpx.AsyncClient, page: Page
) -> None:
    """A request with Authorization or no-store, whose response is not stored, does not keep others from being stored."""
    for headers in ({"Authorization": "Bearer 1"}, {"Cache-Control": "no-store"}):
        page.runs = 0
        await client.get(f"/{next(iter(headers))}", headers=headers)
        for _ in range(2):
            await client.get(f"/{next(iter(headers))}")
        assert page.runs == 2


async def test_authorized_requests_do_not_wait_for_one_another(
    client: httpx.AsyncClient, page: Page
) -> None:
    """After a response to a request with Authorization was not storable, such requests are passed on at once."""
    await client.get("/page", headers={"Authorization": "Bearer 1"})
    page.gate.clear()
    requests = started(client, 5, headers={"Authorization": "Bearer 2"})
    await await_until(lambda: page.runs == 6)
    page.gate.set()
    await asyncio.gather(*requests)


async def test_answer_to_a_condition_of_the_client_validates_nothing(
    any_server: Server, key_prefix: str
) -> None:
    """A handler that was called with the condition of the client answers the client, and not the cache."""
    version, app = 1, FastAPI()

    @app.get("/page")
    @cache_response()
    async def page(request: Request) -> Response:
        headers = {"ETag": f'W/"{version}"', "Cache-Control": "max-age=60", "Age": "60"}
        if request.headers.get("if-none-match") == headers["ETag"]:
            return Response(status_code=304, headers=headers)
        return Response(f"version {version}", headers=headers)

    async with client_of(app, any_server, key_prefix) as client:
        await client.get("/page")
        version = 2
        conditional = await client.get("/page", headers={"If-None-Match": 'W/"2"'})
        assert conditional.status_code == 304
        assert (await client.get("/page")).text == "version 2"


async def test_handler_that_is_called_by_another_does_not_opt_that_in(
    any_server: Server, key_prefix: str
) -> None:
    """A page whose handler calls a decorated handler as a function is not stored."""
    app, runs = FastAPI(), Counter[str]()

    @app.get("/news")
    @cache_response(ttl=60)
    async def news() -> str:
        runs["news"] += 1
        return "news"

    @app.get("/me")
    async def me(request: Request) -> str:
        return f"{request.cookies['user']}: {await news()}"

    async with client_of(app, any_server, key_prefix) as client:
        for user in ("ann", "bob"):
            response = await client.get("/me", headers={"Cookie": f"user={user}"})
            assert response.json() == f"{user}: news"
        for _ in range(2):
            assert (await client.get("/news")).json() == "news"
    assert runs["news"] == 3


async def test_write_removes_what_is_stored_under_a_normalised_query(
    any_server: Server, key_prefix: str
) -> None:
    """A write to a URI invalidates its response, which is stored without the parameters that the route ignores."""
    app, stock = FastAPI(), 1

    @app.get("/stock")
    @cache_response(ttl=60, ignored_parameters=["utm"], sorts_parameters=True)
    async def read() -> int:
        return stock

    @app.put("/stock")
    async def write(amount: int) -> None:
        nonlocal stock
        stock = amount

    async with client_of(app, any_server, key_prefix) as client:
        for path in ("/stock?utm=mail&amount=2", "/stock?x=1&amount=3"):
            await client.get(path)
            await client.put(path)
            assert (await client.get(path)).json() == stock


async def test_mounted_application_is_revalidated(any_server: Server, key_prefix: str) -> None:
    """A request of the cache itself is routed as that of the client was, through the mounts of the application."""
    text = "old"

    async def page(request: Request) -> Response:
        headers = {"Cache-Control": "max-age=60, stale-while-revalidate=60", "Age": "60"}
        return Response(text, headers=headers)

    app = Starlette(routes=[Mount("/shop", routes=[Route("/page", cache_response()(page))])])
    async with client_of(app, any_server, key_prefix) as client:
        await client.get("/shop/page")
        text = "new"
        assert (await client.get("/shop/page")).text == "old"
        # The time limit of the test ends this.
        while (await client.get("/shop/page")).text != "new":
            pass


async def test_failed_refresh_fails_no_request(any_server: Server, key_prefix: str) -> None:
    """A request that waits for a run in the background, whose handler raises, has to run the handler itself."""
    begun, over = asyncio.Event(), asyncio.Event()

    async def run(_: Lead) -> None:
        begun.set()
        await over.wait()
        raise ConnectionError

    async with AsyncRedisCache.from_url(any_server.url, key_prefix=key_prefix) as cache:
        store = ResponseStore(cache.namespace("responses", type=Any, serializer=RECORDS))
        terms = Terms(0, 60)
        refresh = store.start(store.refresh("page", terms, run))
        await begun.wait()
        before = waiting(cache)
        joining = asyncio.ensure_future(store.join_or_lead("page", terms))
        await await_until(lambda: waiting(cache) > before)
        over.set()
        assert isinstance(await joining, Uncacheable)
        await asyncio.wait((refresh,))
        await store.close()


async def test_response_is_passed_on_when_the_cache_refuses_it(
    any_server: Server, key_prefix: str, page: Page
) -> None:
    """A response that is within `max_body`, but too large for the cache, is not stored and fails no request."""
    page.text = "long " * 1000
    for headers in ({}, {"Vary": "Accept"}):
        page.headers = headers
        path = f"/{len(headers)}"
        async with client_of(page, any_server, key_prefix, ALL, max_value_size=1000) as client:
            for _ in range(2):
                response = await client.get(path)
                assert (response.status_code, response.text) == (200, page.text)


async def test_identity_is_not_served_a_response_for_all(
    any_server: Server, key_prefix: str, page: Page
) -> None:
    """A response that was stored before its route got `vary_on` is served to no identity."""
    personal: dict[str, ResponseOptions] = {"*": {"ttl": 60, "vary_on": lambda _: "ann"}}
    async with (
        client_of(page, any_server, key_prefix, ALL) as before,
        client_of(page, any_server, key_prefix, personal) as after,
    ):
        await before.get("/page")
        page.text = "of ann"
        assert (await after.get("/page")).text == "of ann"


async def test_message_before_the_response_does_not_prevent_storing(
    any_server: Server, key_prefix: str
) -> None:
    """A message of an extension is passed on, and the response is stored; one with trailers is not."""
    runs = Counter[str]()

    async def app(scope: MutableMapping[str, Any], receive: Any, send: Send) -> None:
        runs[scope["path"]] += 1
        has_trailers = scope["path"] == "/trailers"
        if not has_trailers:
            await send({"type": "http.response.debug", "info": {}})
        start: dict[str, Any] = {"type": "http.response.start", "status": 200, "headers": []}
        await send({**start, "trailers": has_trailers})
        await send({"type": "http.response.body", "body": b"text"})
        if has_trailers:
            await send({"type": "http.response.trailers", "headers": [(b"x", b"y")]})

    sent: list[Message] = []

    async def append(message: Message) -> None:
        sent.append(message)

    async with AsyncRedisCache.from_url(any_server.url, key_prefix=key_prefix) as cache:
        cached = ResponseCache(app, cache=cache, rules=ALL)
        for path in ("/early", "/early", "/trailers", "/trailers"):
            await cached(scope_of(path), receive_nothing, append)
        await cached.close()
    assert runs == {"/early": 1, "/trailers": 2}
    assert [message["type"].rpartition(".")[2] for message in sent] == [
        *("debug", "start", "body"),
        *("start", "body"),
        *("start", "body", "trailers") * 2,
    ]


async def test_server_that_ends_during_a_run_fails_no_request(
    private_server: StartServer, key_prefix: str, page: Page
) -> None:
    """The request that runs the handler, and those that wait, get its response although it cannot be stored."""
    server = private_server()
    page.gate.clear()
    async with client_of(page, server, key_prefix, ALL) as client:
        requests = started(client, 10)
        await await_until(lambda: page.runs == 1)
        await await_until(lambda: waiting_requests(client) == 10)
        server.kill()
        page.gate.set()
        responses = await asyncio.gather(*requests)
        assert {(response.status_code, response.text) for response in responses} == {(200, "one")}
        page.text = "two"
        assert (await client.get("/page")).text == "two"


async def test_client_that_leaves_a_stream_leaves_nothing_stored(
    any_server: Server, key_prefix: str
) -> None:
    """A stream that its framework stops when the client leaves is not stored, and those that wait run the handler."""
    runs, left = 0, asyncio.Event()

    async def parts() -> AsyncIterator[bytes]:
        yield b"one "
        if runs == 1:
            await asyncio.Event().wait()
        yield b"two"

    async def app(scope: Any, receive: Any, send: Send) -> None:
        nonlocal runs
        runs += 1
        await StreamingResponse(parts())(scope, receive, send)

    async def leave() -> Message:
        await left.wait()
        return {"type": "http.disconnect"}

    async with AsyncRedisCache.from_url(any_server.url, key_prefix=key_prefix) as cache:
        cached = ResponseCache(app, cache=cache, rules=ALL)

        async def send(_: Message) -> None: ...

        first = asyncio.ensure_future(cached(scope_of("/page"), leave, send))
        await await_until(lambda: runs == 1)
        others = [asyncio.ensure_future(ask(cached)) for _ in range(5)]
        await await_until(lambda: waiting(cache) == 6)
        left.set()
        await first
        assert {answer.body for answer in await asyncio.gather(*others)} == {b"one two"}
        await cached.close()
    assert runs == 2


async def test_request_of_the_cache_has_no_state_of_the_client_s(
    any_server: Server, key_prefix: str
) -> None:
    """A run in the background has the state of the lifespan, and nothing that the client's request put there."""
    seen: list[dict[str, str]] = []
    headers = {"Cache-Control": "max-age=60, stale-while-revalidate=60", "Age": "60"}

    async def page(_: Request) -> Response:
        return Response("text", headers=headers)

    routed = Starlette(routes=[Route("/page", cache_response()(page))])

    async def app(scope: Any, receive: Any, send: Send) -> None:
        seen.append(dict(scope["state"]))
        scope["state"]["session"] = "of the request"
        await routed(scope, receive, send)

    async def send(_: Message) -> None: ...

    async with AsyncRedisCache.from_url(any_server.url, key_prefix=key_prefix) as cache:
        cached = ResponseCache(app, cache=cache)
        for _ in range(2):
            scope = scope_of("/page") | {"state": {"pool": "of the lifespan"}}
            await cached(scope, receive_nothing, send)
        await await_until(lambda: len(seen) == 3)
        await cached.close()
    assert seen == [{"pool": "of the lifespan"}] * 3


async def test_fields_from_an_iterator_are_kept(any_server: Server, key_prefix: str) -> None:
    """The fields of a response may be any iterable: those of a write, which are read twice, are sent too."""

    async def app(scope: Any, receive: Any, send: Send) -> None:
        fields = iter([(b"X-Page", b"one")])
        await send({"type": "http.response.start", "status": 200, "headers": fields})
        await send({"type": "http.response.body", "body": b"page"})

    async with client_of(app, any_server, key_prefix, ALL) as client:
        for method in ("PUT", "GET", "GET"):
            assert (await client.request(method, "/page")).headers["x-page"] == "one"


async def test_requests_share_a_run_as_soon_as_a_response_is_stale(
    any_server: Server, key_prefix: str
) -> None:
    """A response that takes long to be stored, after its client got it, is not longer fresh on the server than it is."""
    runs, gate = 0, asyncio.Event()

    async def app(scope: Any, receive: Any, send: Send) -> None:
        nonlocal runs
        runs += 1
        fields = [(b"content-length", b"4")]
        await send({"type": "http.response.start", "status": 200, "headers": fields})
        await send({"type": "http.response.body", "body": b"page", "more_body": True})
        sent = time.time()
        if runs == 1:
            await await_until(lambda: time.time() > sent + 0.5)
        else:
            await gate.wait()
        await send({"type": "http.response.body", "body": b""})

    rules: dict[str, ResponseOptions] = {"*": {"ttl": 0.5}}
    async with client_of(app, any_server, key_prefix, rules) as client:
        await client.get("/page")
        requests = started(client, 10)
        await await_until(lambda: waiting_requests(client) == 10 or runs > 2)
        gate.set()
        await asyncio.gather(*requests)
    assert runs == 2


def stream_behind_a_middleware(parts: Callable[[], AsyncIterator[bytes]]) -> FastAPI:
    """An application with a page that is a stream, under Starlette's BaseHTTPMiddleware.

    That ends the body of a stream that breaks off, as if it were whole.
    """
    app = FastAPI()

    @app.get("/page")
    @cache_response(ttl=60)
    async def page() -> StreamingResponse:
        return StreamingResponse(parts())

    @app.middleware("http")
    async def pass_on(request: Request, call_next: Any) -> Any:
        return await call_next(request)

    return app


async def test_stream_that_fails_behind_a_middleware_is_not_stored(
    any_server: Server, key_prefix: str
) -> None:
    """The exception that follows the end tells that the body broke off."""

    async def parts() -> AsyncIterator[bytes]:
        yield b"half"
        raise RuntimeError

    async with client_of(stream_behind_a_middleware(parts), any_server, key_prefix) as client:
        for _ in range(2):
            answer = await client.get("/page")
            assert answer.text == "half"
            assert "; hit" not in answer.headers["cache-status"]


async def test_stream_whose_client_leaves_behind_a_middleware_is_not_stored(
    any_server: Server, key_prefix: str
) -> None:
    """Starlette cancels a stream whose client leaves, and nothing but the message to the application tells so."""
    gate, sent = asyncio.Event(), list[Message]()

    async def parts() -> AsyncIterator[bytes]:
        yield b"half"
        await gate.wait()
        yield b"whole"

    async def receive() -> Message:
        await await_until(lambda: len(sent) > 1)
        return {"type": "http.disconnect"}

    async def send(message: Message) -> None:
        sent.append(message)

    app = stream_behind_a_middleware(parts)
    async with AsyncRedisCache.from_url(any_server.url, key_prefix=key_prefix) as cache:
        cached = ResponseCache(app, cache=cache)
        await cached(scope_of("/page"), receive, send)
        assert b"whole" not in [message.get("body") for message in sent]
        gate.set()
        assert (await ask(cached)).body == b"halfwhole"


@pytest.mark.parametrize(
    ("field", "value"),
    [("Cache-Control", "private"), ("Cache-Control", "no-store"), ("Vary", "*")],
)
async def test_validated_response_that_may_no_longer_be_stored_is_for_one_client(
    client: httpx.AsyncClient, page: Page, field: str, value: str
) -> None:
    """The 304 response says that the response is no longer one for all: its client gets it, and no other does."""
    page.headers = {"ETag": '"1"', "Cache-Control": "max-age=0"}
    await client.get("/page")
    page.status, page.text, page.headers = 304, "", {"ETag": '"1"', field: value}
    answer = await client.get("/page")
    assert (answer.status_code, answer.text, answer.headers[field]) == (200, "one", value)
    page.status, page.text = 200, "two"
    for run in (3, 4):
        assert (await client.get("/page")).text == "two"
        assert page.runs == run


async def test_client_that_reads_slowly_delays_no_other(
    page: Page, any_server: Server, key_prefix: str
) -> None:
    """The server lets the end of a response wait for its client: others get the response meanwhile."""
    is_sending, gate = asyncio.Event(), asyncio.Event()

    async def send(message: Message) -> None:
        if message["type"] == "http.response.body":
            is_sending.set()
            await gate.wait()

    async with AsyncRedisCache.from_url(any_server.url, key_prefix=key_prefix) as cache:
        cached = ResponseCache(page, cache=cache, rules=ALL)
        slow = asyncio.create_task(cached(scope_of("/page"), receive_nothing, send))
        await is_sending.wait()
        assert (await ask(cached)).body == b"one"
        gate.set()
        await slow
    assert page.runs == 1
