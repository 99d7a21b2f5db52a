"""Handlers that are opted in where nothing can cache their responses."""

from __future__ import annotations

import logging
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import httpx
import pytest
from aiohttp import web
from aiohttp.test_utils import TestClient, TestServer
from fastapi import Depends, FastAPI
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.routing import Route

from async_redis_cache import AsyncRedisCache, RedisCache
from async_redis_cache import aiohttp as on_aiohttp
from async_redis_cache.asgi import ResponseCache, add_response_tags, cache_response
from async_redis_cache.fastapi import cache_response as cache_dependency
from harness.responses import ask

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from harness import Server


def warnings_of(caplog: pytest.LogCaptureFixture) -> list[str]:
    """What was logged about handlers without the middleware."""
    return [
        record.getMessage()
        for record in caplog.records
        if record.levelname == "WARNING" and "has no effect" in record.getMessage()
    ]


async def test_decorated_handler_without_the_middleware_warns_once(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """The handler runs, and the first of its requests logs how to add the middleware."""
    app = FastAPI()

    @app.get("/decorated")
    @cache_response(ttl=60)
    async def decorated_only() -> str:
        return "text"

    @app.get("/depending", dependencies=[Depends(cache_dependency(ttl=60))])
    async def depending_only() -> str:
        return "text"

    transport = httpx.ASGITransport(app)
    async with httpx.AsyncClient(transport=transport, base_url="http://shop") as client:
        for path in ("/decorated", "/depending") * 2:
            assert (await client.get(path)).json() == "text"
    decorated, depending = warnings_of(caplog)
    assert "decorated_only" in decorated
    assert "dependency" in depending
    assert "app.add_middleware(ResponseCache, cache=cache)" in decorated


async def test_log_handler_that_raises_fails_no_request() -> None:
    """Records about responses have the fields that those about servers have, and are logged as safely."""
    fields: list[tuple[str, str]] = []

    class Alerts(logging.Handler):
        def emit(self, record: Any) -> None:
            fields.append((record.cache_event, record.cache_subject))
            raise ValueError

    @cache_response(ttl=60)
    async def unwrapped(_: Request) -> PlainTextResponse:
        return PlainTextResponse("text")

    log, alerts = logging.getLogger("async_redis_cache"), Alerts()
    log.addHandler(alerts)
    try:
        app = Starlette(routes=[Route("/", unwrapped)])
        assert (await ask(app, "/")).body == b"text"
    finally:
        log.removeHandler(alerts)
    ((event, subject),) = fields
    assert event == "responses_not_cached"
    assert "unwrapped" in subject


async def test_decorated_handler_of_aiohttp_without_the_middleware_warns_once(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """The same under aiohttp, with its middleware."""

    @on_aiohttp.cache_response(ttl=60)
    async def aiohttp_only(_: web.Request) -> web.StreamResponse:
        return web.Response(text="text")

    app = web.Application()
    app.router.add_get("/", aiohttp_only)
    async with TestClient(TestServer(app)) as client:
        for _ in range(2):
            async with client.get("/") as response:
                assert await response.text() == "text"
    (warning,) = warnings_of(caplog)
    assert "aiohttp_only" in warning
    assert "response_cache()" in warning


@pytest.mark.depends_on
async def test_decorated_handler_that_is_not_recognised_warns_once(
    any_server: Server, key_prefix: str, caplog: pytest.LogCaptureFixture
) -> None:
    """A decorator without functools.wraps hides the handler that is opted in. That it has no effect is logged."""
    app = FastAPI()

    @cache_response(ttl=60)
    async def hidden() -> str:
        return "text"

    @app.get("/")
    async def routed() -> str:
        return str(await hidden())

    async with AsyncRedisCache.from_url(any_server.url, key_prefix=key_prefix) as cache:
        cached = ResponseCache(app, cache=cache)
        for _ in range(2):
            assert (await ask(cached, "/")).body == b'"text"'
    (warning,) = warnings_of(caplog)
    assert "hidden" in warning
    assert "functools.wraps" in warning


@pytest.mark.depends_on
async def test_decorated_handler_of_another_framework_is_refused(
    any_server: Server, key_prefix: str
) -> None:
    """A framework whose handlers cannot be answered from the cache fails at its first request, not at its first hit."""

    @cache_response(ttl=60)
    async def handler() -> bytes:
        return b"text"

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await handler()

    async with AsyncRedisCache.from_url(any_server.url, key_prefix=key_prefix) as cache:
        with pytest.raises(RuntimeError, match="use the rules"):
            await ask(ResponseCache(app, cache=cache))


async def test_cache_that_is_not_open_warns_once(caplog: pytest.LogCaptureFixture) -> None:
    """The handler runs, and the first of its requests logs that the cache has to be opened."""
    app, cache = FastAPI(), AsyncRedisCache.from_url("redis://127.0.0.1:1")
    app.add_middleware(ResponseCache, cache=cache, namespace="never opened")

    @app.get("/")
    @cache_response(ttl=60)
    async def page() -> str:
        return "text"

    for _ in range(2):
        assert (await ask(app, "/")).body == b'"text"'
    (warning,) = [
        record.getMessage() for record in caplog.records if "never opened" in record.getMessage()
    ]
    assert "the cache is not open" in warning


@pytest.mark.depends_on
async def test_handler_behind_a_copy_of_the_scope_warns_once(
    any_server: Server, key_prefix: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Which handler was routed to is not seen then: it might be one that calls a decorated one for one client."""
    app = FastAPI()

    @cache_response(ttl=60)
    async def shared() -> str:
        return "text"

    @app.get("/account")
    async def account(user: str) -> str:
        return f"{user} {await shared()}"

    class Copying:
        def __init__(self, app: Any) -> None:
            self.app = app

        async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
            await self.app(dict(scope), receive, send)

    app.get("/shared")(shared)
    app.add_middleware(Copying)
    async with AsyncRedisCache.from_url(any_server.url, key_prefix=key_prefix) as cache:
        app.add_middleware(ResponseCache, cache=cache)
        for _ in range(2):
            assert (await ask(app, "/shared")).body == b'"text"'
            assert (await ask(app, "/account", query="user=ann")).body == b'"ann text"'
    (warning,) = warnings_of(caplog)
    assert "copy of the scope" in warning


@pytest.mark.parametrize("option", ["tags", "parameters", "ignored_parameters", "targeted"])
def test_text_in_place_of_a_list_is_refused(option: str) -> None:
    """A text as `tags` would be one tag for each character, none of which is ever invalidated."""
    options: Any = {option: "page"}
    with pytest.raises(TypeError, match=f"{option} must be a list"):
        cache_response(**options)


async def _user_of(_: object) -> str:
    return "ann"


@pytest.mark.parametrize(
    ("options", "why"),
    [
        ({"tttl": 1}, "did you mean `ttl`"),
        ({"statuses": ["200"]}, "statuses must be a list of int"),
        ({"statuses": 200}, "statuses must be a list of int"),
        ({"parameters": [1]}, "parameters must be a list of str"),
        ({"vary_on": "user"}, "vary_on must be a plain function"),
        ({"vary_on": _user_of}, "vary_on must be a plain function"),
        ({"stale_if_error": timedelta(days=4000)}, "stale_if_error must be from 0 to 315360000"),
        ({"ttl": float("nan")}, "ttl must be from 0 to 315360000"),
    ],
)
def test_option_that_can_never_work_is_refused(options: Any, why: str) -> None:
    """It raises when the route is declared: each request would fail, or silently store nothing."""
    with pytest.raises((TypeError, ValueError), match=why):
        cache_response(**options)


def test_invalid_tag_of_a_route_is_refused() -> None:
    """A tag that could not be stored fails when the route is declared, and not each time a response is to be stored."""
    with pytest.raises(ValueError, match="tag"):
        cache_response(tags=["page", ""])


def test_synchronous_cache_is_refused() -> None:
    """A `RedisCache`, whose methods block, fails when the middleware is added, and not at the first request."""
    cache: Any = RedisCache.from_url("redis://127.0.0.1:1")
    with pytest.raises(TypeError, match="not RedisCache"):
        ResponseCache(FastAPI(), cache=cache)


def test_generator_handler_is_refused() -> None:
    """FastAPI streams what such a handler yields, without a response of its own that could be replaced."""

    async def numbers() -> AsyncIterator[int]:
        yield 1

    with pytest.raises(TypeError, match=r"numbers.*StreamingResponse"):
        cache_response(ttl=60)(numbers)


@pytest.mark.depends_on
async def test_invalid_tag_of_a_handler_is_logged_once(
    any_server: Server, key_prefix: str, caplog: pytest.LogCaptureFixture
) -> None:
    """A response that could not be invalidated by its tags is not stored, does not claim to be, and is not failed."""
    app = FastAPI()

    @app.get("/")
    @cache_response(ttl=60)
    async def page() -> str:
        add_response_tags("a\tb")
        return "text"

    async with AsyncRedisCache.from_url(any_server.url, key_prefix=key_prefix) as cache:
        app.add_middleware(ResponseCache, cache=cache)
        for _ in range(2):
            answer = await ask(app, "/")
            assert answer.body == b'"text"'
            assert "stored" not in answer.headers["cache-status"]
    (warning,) = [text for text in caplog.messages if "tags are invalid" in text]
    assert "control characters" in warning


@pytest.mark.depends_on
async def test_handler_that_is_a_callable_object_is_awaited(
    any_server: Server, key_prefix: str
) -> None:
    """An object whose `__call__` is a coroutine function is a handler too."""

    class Page:
        async def __call__(self) -> str:
            return "text"

    app = FastAPI()
    app.get("/")(cache_response(ttl=60)(Page()))
    async with AsyncRedisCache.from_url(any_server.url, key_prefix=key_prefix) as cache:
        app.add_middleware(ResponseCache, cache=cache)
        answers = [await ask(app, "/") for _ in range(2)]
    assert {answer.body for answer in answers} == {b'"text"'}
    assert "hit" in answers[1].headers["cache-status"]
