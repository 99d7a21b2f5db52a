"""`cached`: errors that are raised when it is applied, not at the first call."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Generator, Iterator
from datetime import timedelta
from typing import Annotated, Any, TypeAlias, cast

import httpx
import pytest
from aiohttp import web
from fastapi import BackgroundTasks, Depends, FastAPI, Request, Response, WebSocket
from fastapi.responses import JSONResponse

from async_redis_cache import AsyncRedisCache, CacheInputError, RedisCache, cached
from harness import Server

pytestmark = pytest.mark.depends_on()

CACHE = AsyncRedisCache.from_url("redis://127.0.0.1:1")
PLAIN = RedisCache.from_url("redis://127.0.0.1:1")
Later: TypeAlias = "Annotated[Request, Depends()] | None"


async def find(number: int) -> int:
    return number


def test_missing_cache_raises_when_applied() -> None:
    """`@cached` without parentheses: the decorator is given the function for its cache."""
    loose: Any = cached

    async def nothing() -> int:
        return 1

    static: Any = staticmethod(find)
    wrongs: list[Any] = [find, nothing, AsyncRedisCache, "redis://host", None, static, 1]
    for wrong in wrongs:
        with pytest.raises(TypeError, match=r"@cached\(cache\)"):
            loose(wrong)

    def plain() -> int:
        return 1

    with pytest.raises(TypeError, match=r"@cached\(cache\)"):
        loose(plain)()


@pytest.mark.parametrize("cache", [CACHE, PLAIN])
def test_namespace_decorator_without_parentheses_raises_when_applied(
    cache: AsyncRedisCache | RedisCache,
) -> None:
    """`@namespace.cached` without parentheses: the decorator is given the function for its key."""
    decorate: Any = cache.namespace("number").cached
    with pytest.raises(TypeError, match="with parentheses"):
        decorate(find)


@pytest.mark.parametrize("name", ["timeout", "expire", "ex"])
def test_error_of_a_namespace_names_the_ttl_that_was_meant(name: str) -> None:
    """A TypeError that names `ttl=`, since a namespace has no `timeout`."""
    decorate: Any = CACHE.namespace("number").cached
    with pytest.raises(TypeError, match="`ttl=`, in seconds"):
        decorate("{number}", **{name: 60})


@pytest.mark.parametrize("name", ["ttl", "expire", "ex"])
def test_error_names_the_timeout_option_that_was_meant(name: str) -> None:
    """A TypeError that names `timeout=`."""
    loose: Any = cached
    with pytest.raises(TypeError, match="timeout="):
        loose(CACHE, **{name: 60})


@pytest.mark.parametrize(
    "options",
    [
        {"timeout": -1},
        {"timeout": "60"},
        {"timeout": timedelta(days=-1)},
        {"refresh_at": 2},
        {"jitter": "much"},
        {"hard_timeout": -1},
        {"stale_timeout": "1"},
    ],
)
def test_bad_times_and_shares_are_refused_when_applied(options: dict[str, Any]) -> None:
    """With the error that a call of the cache would raise."""
    loose: Any = cached
    with pytest.raises(CacheInputError):
        loose(CACHE, **options)


@pytest.mark.parametrize("kind", ["int", 1, [int], list[AsyncRedisCache], Generator[int]])
def test_type_that_is_none_is_refused_when_applied(kind: Any) -> None:
    """No serializer could validate a result as that."""
    with pytest.raises(TypeError, match="type= must be"):
        cached(CACHE, type=kind)


def test_too_many_tags_are_refused_when_applied() -> None:
    """The cache takes 64; one that is given twice is one."""
    tags = [f"tag:{number}" for number in range(65)]
    with pytest.raises(TypeError, match="64 tags"):
        cached(CACHE, tags=tags)(find)
    assert cached(CACHE, tags=[*tags[:64], tags[0]])(find).key(1)


def test_unknown_options_are_refused_when_applied() -> None:
    """By their names."""
    loose: Any = cached
    with pytest.raises(TypeError, match="refresh_after"):
        loose(CACHE, refresh_after=1)


def test_kind_of_function_is_checked_when_applied() -> None:
    """Coroutine functions for the one cache, plain ones for the other; classes and values neither."""

    def plain(number: int) -> int:
        return number

    with pytest.raises(TypeError, match="caches coroutine functions"):
        cached(CACHE)(plain)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    with pytest.raises(TypeError, match="caches plain functions"):
        cached(PLAIN)(find)
    loose: Any = cached(CACHE)
    for wrong in (1, "find", property()):
        with pytest.raises(TypeError, match="cached decorates functions"):
            loose(wrong)


async def a_response(number: int) -> Response:
    raise NotImplementedError


async def a_json_response(number: int) -> JSONResponse | None:
    raise NotImplementedError


async def an_aiohttp_response(number: int) -> web.Response:
    raise NotImplementedError


async def a_generator(number: int) -> Generator[int]:
    raise NotImplementedError


async def an_iterator(number: int) -> Iterator[int]:
    raise NotImplementedError


async def an_async_iterator(number: int) -> AsyncIterator[int]:
    raise NotImplementedError


async def an_awaitable(number: int) -> Awaitable[int]:
    raise NotImplementedError


async def a_task(number: int) -> asyncio.Task[int]:
    raise NotImplementedError


async def a_list_of_responses(number: int) -> list[Annotated[Response, 1]]:
    raise NotImplementedError


@pytest.mark.parametrize(
    ("function", "name"),
    [
        (a_response, "Response"),
        (a_json_response, "JSONResponse"),
        (an_aiohttp_response, "Response"),
        (a_generator, "Generator"),
        (an_iterator, "Iterator"),
        (an_async_iterator, "AsyncIterator"),
        (a_list_of_responses, "Response"),
        (an_awaitable, "Awaitable"),
        (a_task, "Task"),
    ],
)
@pytest.mark.parametrize("key", [None, "key"])
def test_annotated_results_that_are_no_values_are_refused_when_applied(
    function: Any, name: str, key: str | None
) -> None:
    """A response is made by the handler, and a generator is read once: it says so."""
    with pytest.raises(TypeError, match=f"returns a {name}"):
        cached(CACHE, key=key)(function)


async def takes_request(request: Request) -> int:
    raise NotImplementedError


async def takes_annotated(request: Annotated[Request, Depends()]) -> int:
    raise NotImplementedError


async def takes_optional(request: Request | None = None) -> int:
    raise NotImplementedError


async def takes_alias(request: Later = None) -> int:
    raise NotImplementedError


async def takes_websocket(request: WebSocket) -> int:
    raise NotImplementedError


async def takes_response(request: Response) -> int:
    raise NotImplementedError


async def takes_tasks(request: BackgroundTasks) -> int:
    raise NotImplementedError


async def takes_aiohttp(request: web.Request) -> int:
    raise NotImplementedError


class Session:
    """As that of a database."""


Session.__module__ = "sqlalchemy.orm.session"


async def takes_session(request: Session) -> int:
    raise NotImplementedError


@pytest.mark.parametrize(
    "function",
    [
        takes_session,
        takes_request,
        takes_annotated,
        takes_optional,
        takes_alias,
        takes_websocket,
        takes_response,
        takes_tasks,
        takes_aiohttp,
    ],
)
def test_annotated_requests_and_sessions_are_refused_when_applied(function: Any) -> None:
    """The sentence names the argument and what to do; with `key=` they are taken."""
    with pytest.raises(TypeError, match=r"argument 'request' of .*: pass what .* key="):
        cached(CACHE)(function)
    decorate: Any = cached(CACHE, key="key")
    assert decorate(function).key(None) == "key"


def test_dependency_is_not_taken_for_an_argument_type() -> None:
    """What stands behind the type in an Annotated says nothing about the argument."""

    async def handler(number: Annotated[int, Depends(takes_request), Request]) -> int:
        return number

    assert cached(CACHE)(handler).key(1)


async def test_results_without_annotation_are_refused_when_called(server: Server) -> None:
    """What is read, awaited or entered only once, or is sent: callers would share one; nothing is stored."""
    async with AsyncRedisCache.from_url(server.url) as cache:
        results: list[Any] = [iter([1]), (n for n in [1]), Response(), JSONResponse({})]
        results += [
            asyncio.get_running_loop().create_future(),
            contextlib.contextmanager(cast("Any", iter))([1]),
            contextlib.asynccontextmanager(cast("Any", iter))([1]),
        ]

        @cached(cache, key="key")
        async def loose() -> Any:
            return results.pop()

        for _ in range(len(results)):
            with pytest.raises(TypeError, match="loose returns a"):
                await loose()
        assert await cache.contains(None, "key") is False


def test_session_is_refused_when_called() -> None:
    """The error names an object whose state cannot be part of a key, and what to do."""

    class Client:
        def __init__(self) -> None:
            self.connection = object()

    @cached(CACHE)
    async def handler(number: int, session: Any) -> int:
        return number

    with pytest.raises(TypeError, match=r"argument 'session' of .*key="):
        handler.key(1, Client())


async def test_provider_gives_the_cache_of_each_call(server: Server) -> None:
    """So a test's cache reaches what was decorated when its module was imported."""
    current: list[Any] = []

    @cached(lambda: current[-1], key="key:{number}")
    async def double(number: int) -> int:
        return number * 2

    async with (
        AsyncRedisCache.from_url(server.url, key_prefix="one:") as one,
        AsyncRedisCache.from_url(server.url, key_prefix="two:") as two,
    ):
        for cache in (one, two):
            current.append(cache)
            assert await double(2) == 4
            assert await cache.retrieve(None, "key:2") == 4
            assert await double.refresh(2) == 4
            await double.invalidate(2)
            assert await cache.contains(None, "key:2") is False
    current.append(PLAIN)
    with pytest.raises(TypeError, match=r"returned an instance of RedisCache"):
        await double(2)


def test_provider_gives_the_cache_of_plain_functions(server: Server) -> None:
    """The other kind of function likewise."""
    with RedisCache.from_url(server.url, key_prefix="one:") as cache:

        @cached(lambda: cache, key="key:{number}")
        def double(number: int) -> int:
            return number * 2

        assert double(2) == 4
        assert cache.retrieve(None, "key:2") == 4
        double.invalidate(2)
        assert cache.contains(None, "key:2") is False


async def test_decorated_handlers_serve_a_fastapi_application(server: Server) -> None:
    """Its parameters are those of the function, and it is awaited; no path is an error."""
    calls: list[str] = []
    app = FastAPI()
    async with (
        AsyncRedisCache.from_url(server.url) as cache,
        httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://app") as client,
    ):

        @app.get("/users/{user_id}")
        @cached(cache, key="user:{user_id}:{page}", long_keys="hash")
        async def user(user_id: str, page: int = 1) -> dict[str, Any]:
            calls.append(user_id)
            return {"user": user_id, "page": page}

        for path in ("/users/a", "/users/a?page=2", "/users/" + "x" * 2000, "/users/a%0Ab"):
            for _ in range(2):
                assert (await client.get(path)).status_code == 200
        assert (await client.get("/users/a?page=b")).status_code == 422
    assert len(calls) == 4
